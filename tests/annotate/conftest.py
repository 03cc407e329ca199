"""Fixtures of the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from annotated_clip import true_labels, write_clip
from browsing import Server, browsers

browser = pytest.fixture(browsers)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two moving boxes as an mp4."""
    return write_clip(tmp_path)


@pytest.fixture
def labels() -> np.ndarray:
    """Label maps of the boxes."""
    return true_labels()


@pytest.fixture
def serve() -> Iterator:
    """Start servers; those that a failed test leaves are ended."""
    started: list[Server] = []

    def start(clip: Path) -> Server:
        started.append(Server(clip))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()
