"""What a run says on the console and what only its log file holds."""

from __future__ import annotations

import logging
import platform
import sys

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ..config import config_of_bases, find_config
from ..structures.errors import one_line
from ..structures.writable import check_writable

# Long messages of Detectron2's default_setup.
_LONG = ("Running with full config", "Contents of args.config_file", "Environment info", "Command")
FILE_ONLY = {"file_only": True}  # logger.info(..., extra=FILE_ONLY)

logger = logging.getLogger(__name__)


class _Short(logging.Filter):
    """Keeps long messages, and tracebacks of what is told in one line, off the console."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "file_only", False) or str(record.msg).startswith(_LONG):
            return False
        error = record.exc_info[1] if record.exc_info else None
        return error is None or one_line(error) is None


def set_up_loggers(folder: str, rank: int) -> None:
    """Log to the console of rank 0, shortly, and to ``folder/log.txt``, everything.

    Raises:
        InputError: nothing can be written there.
    """
    if folder:
        check_writable(folder, "OUTPUT_DIR")
    # Called as default_setup calls it, so that it finds these loggers and adds no other handlers.
    setup_logger(folder or None, distributed_rank=rank, name="fvcore")
    setup_logger(folder or None, distributed_rank=rank)
    setup_logger(folder or None, distributed_rank=rank, name="vis_projects", abbrev_name="vis")
    for name in ("detectron2", "fvcore", "vis_projects"):
        for handler in logging.getLogger(name).handlers:
            on_console = getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
            if on_console and not any(isinstance(f, _Short) for f in handler.filters):
                handler.addFilter(_Short())


def announce(cfg: CfgNode, config_file: str) -> None:
    """Say what runs, where, and what differs from the config's base."""
    changed = differences(cfg, config_of_bases(config_file))
    logger.info(
        "%s on %s, PyTorch %s, Python %s; everything else: %s/log.txt\n%s",
        cfg.MODEL.META_ARCHITECTURE,
        cfg.MODEL.DEVICE,
        torch.__version__,
        platform.python_version(),
        cfg.OUTPUT_DIR,
        "\n".join([f"{find_config(config_file)}, beyond its base:", *changed]),
    )


def differences(cfg: CfgNode, base: CfgNode, prefix: str = "") -> list[str]:
    """Return ``  KEY value`` for every option whose value is not that of ``base``."""
    rows: list[str] = []
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            rows += differences(value, base[key], f"{prefix}{key}.")
        elif value != base[key]:
            rows.append(f"  {prefix}{key} {value}")
    return rows
