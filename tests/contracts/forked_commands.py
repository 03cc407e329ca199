"""Commands in processes of their own that start quickly: forks of a server that has imported
everything and has no threads. A fork of a test process would inherit locks that nobody frees.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if _CONTEXT is not None:
    _CONTEXT.set_forkserver_preload(
        [
            "vis_projects",
            "vis_projects.cli",
            "vis_projects.video.demo_output",
            "vis_metrics.cli",
            "vis_projects.bulk.worker",
            "vis_projects.engine.job",
            "vis_projects.report.run_report",
        ]
    )


def _run(argv: list[str], log: str) -> None:
    from vis_metrics.cli import main as score_main
    from vis_projects.cli import main

    code: object = 70
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    try:
        code = score_main(argv[1:]) if argv[0] == "SCORE" else main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 71
    except KeyboardInterrupt:  # between two lines of this function
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def start(argv: list[str], log: Path) -> BaseProcess:
    """Start ``vis ARGV`` (``SCORE ...``: vis-score); what it prints goes to ``log``."""
    process = _CONTEXT.Process(target=_run, args=(argv, str(log)))
    process.start()
    return process


def outcome(argv: list[str], log: Path, *, seconds: float) -> str:
    """Run ``vis ARGV`` (``SCORE ...``: vis-score) and return its exit code, or what became of it:
    ``signal N`` or ``hang``. What it prints goes to ``log``."""
    process = start(argv, log)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return "hang"
    return str(process.exitcode) if process.exitcode >= 0 else f"signal {-process.exitcode}"
