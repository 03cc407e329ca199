"""Fixtures of the tests of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated_clip import true_labels, write_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two moving boxes as an mp4."""
    return write_clip(tmp_path)


@pytest.fixture
def labels() -> np.ndarray:
    """Label maps of the boxes."""
    return true_labels()
