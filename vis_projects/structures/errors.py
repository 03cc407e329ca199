"""The one exception for mistakes that a user can correct, and how every command ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vis_metrics.errors import InputError

# Exit codes of every command; a traceback (1) is our own fault.
DONE, OUR_FAULT, BAD_INPUT, PARTLY_DONE, INTERRUPTED = 0, 1, 2, 3, 130

__all__ = ["InputError", "one_line_errors"]


class Terminated(KeyboardInterrupt):
    """SIGTERM (SLURM, ``kill``): handled like Ctrl-C, so that what is done is written."""


class PartlyDone(Exception):
    """Work ended and some of it is missing; the message, one line, lists what."""


@contextmanager
def one_line_errors(script: str) -> Iterator[None]:
    """Around a script's ``main``: bad input ends in one line and exit code 2, Ctrl-C in 130.

    While it is active SIGTERM raises ``Terminated``.
    """
    with _sigterm_raises():
        try:
            yield
        except KeyboardInterrupt as error:
            reason = " ".join(str(error).split())
            print(f"{script}: stopped{': ' + reason if reason else ''}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:  # `vis ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(DONE) from None
        except Exception as error:
            line = one_line(error)
            if line is None:
                raise
            print(f"{script}: {line}", file=sys.stderr)
            partly = isinstance(error, PartlyDone) or _PARTLY.search(str(error))
            raise SystemExit(PARTLY_DONE if partly else BAD_INPUT) from None


# An error of another process arrives as text.
_PARTLY = re.compile(r"^(?:[\w.]*\.)?PartlyDone: ", flags=re.MULTILINE)
# What the machine refuses is nobody's bug: no space, no permission, a read-only disk.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}
# Nor is a file in the place of a folder, or a name that is too long.
_REFUSALS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def one_line(error: BaseException) -> str | None:
    """Return what is wrong in one line, or None where the error is our own fault.

    An InputError is found also where another process raised it: in a worker of a data loader, a
    process of ``--num-gpus`` or an actor, whose errors arrive as text with a traceback.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if "Traceback (most recent call last)" in text:
        raised = re.findall(r"^([A-Za-z_][\w.]*): (.*)$", text, flags=re.MULTILINE)
        return raised[-1][1].strip() if raised and _is_told(raised[-1][0]) else None
    if names & {"InputError", "PartlyDone"}:
        return " ".join(text.split())
    if "OutOfMemoryError" in names:
        return f"{' '.join(text.split())[:200]}: make batch, frames or FEATURE_CACHE_MB smaller"
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return f"{error.filename or 'writing'}: {error.strerror}"
    return None


def _is_told(name: str) -> bool:
    """Whether a class, named as in a traceback, is an InputError or PartlyDone."""
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    known = isinstance(found, type) and issubclass(found, (InputError, PartlyDone))
    return known or kind in ("InputError", "PartlyDone")


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise ``Terminated`` in this process, not in processes that it forks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a forked worker: ends as it would have
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise Terminated("SIGTERM")

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
