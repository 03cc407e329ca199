"""What every test of the engine needs."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads():
    """Tests may change the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
