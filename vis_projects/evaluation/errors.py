"""The exceptions with which bad ground truth and bad result files end, one clear line each."""

from __future__ import annotations

from ..structures.errors import InputError


class GroundTruthError(InputError):
    """The ground truth (annotations, meta file, sequence list) cannot be used."""


class ResultFileError(InputError):
    """The result file or folder does not follow its benchmark's format."""
