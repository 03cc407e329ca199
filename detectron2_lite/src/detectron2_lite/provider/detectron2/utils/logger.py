"""Loggers that write to the terminal and to a file, and messages that do not repeat."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

__all__ = [
    "create_small_table",
    "log_every_n",
    "log_every_n_seconds",
    "log_first_n",
    "setup_logger",
]

_DATE_FORMAT = "%m/%d %H:%M:%S"


class _Formatter(logging.Formatter):
    """Shortens the logger's name and marks warnings and errors; both in colour if asked."""

    MARKS = {
        logging.WARNING: ("WARNING", "red", ["blink"]),
        logging.ERROR: ("ERROR", "red", ["blink", "underline"]),
        logging.CRITICAL: ("ERROR", "red", ["blink", "underline"]),
    }

    def __init__(self, fmt: str, *, name: str, abbreviation: str, color: bool) -> None:
        super().__init__(fmt, datefmt=_DATE_FORMAT)
        self._root = name + "."
        self._short = abbreviation + "." if abbreviation else ""
        self._color = color

    def formatMessage(self, record: logging.LogRecord) -> str:
        full = record.name
        if full.startswith(self._root):
            record.name = self._short + full[len(self._root) :]
        message = super().formatMessage(record)
        record.name = full
        if not self._color or record.levelno not in self.MARKS:
            return message
        word, colour, attributes = self.MARKS[record.levelno]
        return f"{colored(word, colour, attrs=attributes)} {message}"


@functools.cache  # calling twice must not add the handlers twice
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Make the logger ``name`` write to stdout (rank 0) and, if ``output`` is given, to a file.

    ``output`` is a file (``.txt`` or ``.log``) or a folder, where ``log.txt`` is written; ranks
    other than 0 append ``.rank{r}``. ``abbrev_name`` replaces ``name`` in the lines; "" omits it.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    if distributed_rank == 0:
        handler = logging.StreamHandler(stream=sys.stdout)
        handler.setLevel(logging.DEBUG)
        fmt = plain
        if color:
            fmt = colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s"
        handler.setFormatter(_Formatter(fmt, name=name, abbreviation=abbrev_name, color=color))
        logger.addHandler(handler)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path) or ".")
        handler = logging.StreamHandler(_log_stream(path))
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(_Formatter(plain, name=name, abbreviation=abbrev_name, color=False))
        logger.addHandler(handler)
    return logger


@functools.cache  # loggers that share a file share its stream
def _log_stream(path: str):
    stream = PathManager.open(path, "a")
    atexit.register(stream.close)
    return stream


_COUNTS: Counter = Counter()
_TIMES: dict[tuple, float] = {}


def _caller() -> tuple[str, tuple]:
    """Return the module's name and the place of the nearest frame outside this file."""
    frame = sys._getframe(2)
    while frame and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    code = frame.f_code
    module = frame.f_globals.get("__name__", "detectron2")
    module = "detectron2" if module == "__main__" else module
    return module, (code.co_filename, frame.f_lineno, code.co_name)


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple = "caller"
) -> None:
    """Log the first ``n`` times; ``key`` tells what counts as the same: caller, message, both."""
    module, place = _caller()
    keys = (key,) if isinstance(key, str) else tuple(key)
    assert keys and set(keys) <= {"caller", "message"}, f"key {key!r}: use 'caller', 'message'"
    identity: tuple = ()
    if "caller" in keys:
        identity += place
    if "message" in keys:
        identity += (msg,)
    _COUNTS[identity] += 1
    if _COUNTS[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first, then every ``n``-th time."""
    module, place = _caller()
    _COUNTS[place] += 1
    if n == 1 or _COUNTS[place] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds."""
    module, place = _caller()
    now = time.monotonic()
    last = _TIMES.get(place)
    if last is None or now - last >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _TIMES[place] = now


def create_small_table(small_dict: Mapping[str, float]) -> str:
    """Return a table with the keys as its header and one row of values; for a few items only."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
