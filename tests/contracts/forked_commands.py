"""Commands in processes of their own that start quickly: forks of a server that has imported
everything and has no threads. A fork of a test process would inherit locks that nobody frees.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Mapping
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


def _call(argv: list[str]) -> object:
    """Run ``vis ARGV``, ``SCORE ...`` (vis-score) or ``PYTHON [-m] ...``."""
    program, *words = argv
    if program == "SCORE":
        from vis_metrics.cli import main as score

        return score(words)
    if program == "PYTHON":
        module = words[0] == "-m"
        name, *sys.argv[1:] = words[1:] if module else words
        sys.argv[0] = name
        sys.path.insert(0, os.getcwd() if module else os.path.dirname(os.path.abspath(name)))
        run = runpy.run_module if module else runpy.run_path
        run(name, run_name="__main__", **({"alter_sys": True} if module else {}))
        return 0
    from vis_projects.cli import main

    return main(argv)


def _run(argv: list[str], log: str, folder: str, environment: Mapping[str, str]) -> None:
    code: object = 70
    try:
        os.environ.update(environment)
        os.chdir(folder)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = _call(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 71
    except KeyboardInterrupt:  # between two lines of this function
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def start(
    argv: list[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start ``vis ARGV``, ``SCORE ...`` (vis-score) or ``PYTHON [-m] ...`` in a folder (the working
    directory) and return when it has begun, so that signals reach the command and not the making of
    its process. What it prints goes to ``log``."""
    log = log.absolute()
    log.unlink(missing_ok=True)
    where = str(folder or Path.cwd())
    process = _CONTEXT.Process(target=_run, args=(argv, str(log), where, dict(environment or {})))
    process.start()
    while process.is_alive() and not log.exists():
        time.sleep(0.001)
    return process


def outcome(
    argv: list[str],
    log: Path,
    *,
    seconds: float | None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command as ``start`` does and return its exit code, or what became of it:
    ``signal N`` or ``hang``."""
    process = start(argv, log, folder=folder, environment=environment)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return "hang"
    return str(process.exitcode) if process.exitcode >= 0 else f"signal {-process.exitcode}"
