"""The one exception for mistakes that a user can correct."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: a file, video, checkpoint or option.

    The message is one line that names the thing, the place and the remedy; the scripts print it
    without a traceback and end with exit code 2.
    """
