"""The exceptions with which bad ground truth and bad result files end, one clear line each."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: a file, video, checkpoint or option.

    The message is one line that names the thing, the place and the remedy; commands print it
    without a traceback and end with exit code 2.
    """


class GroundTruthError(InputError):
    """The ground truth (annotations, meta file, sequence list) cannot be used."""


class ResultFileError(InputError):
    """The result file or folder does not follow its benchmark's format."""
