"""The one exception for mistakes that a user can correct."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: a file, video, checkpoint or option.

    The message is one line that names the thing, the place and the remedy; the scripts print it
    without a traceback and end with exit code 2.
    """


@contextmanager
def one_line_errors(script: str) -> Iterator[None]:
    """Around a script's ``main``: bad input ends in one line and exit code 2, Ctrl-C in 130."""
    try:
        yield
    except InputError as error:
        print(f"{script}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"{script}: stopped", file=sys.stderr)
        raise SystemExit(130) from None
