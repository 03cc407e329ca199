"""Recorded arrays, and tubes made of recorded bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vis_projects.seq_mask_rcnn.packed_tubes import PackedTubes


@pytest.fixture
def recorded(golden):
    """Return a function from the name of a recording to its arrays."""
    return lambda name: dict(np.load(golden(f"seq_mask_rcnn/{name}.npz")))


@pytest.fixture
def tubes_of():
    """Return a function from recorded bits (n, ...), T and (H, W) to tubes."""
    return _tubes_of


def _tubes_of(packed: np.ndarray, length: int, size: tuple[int, int]) -> PackedTubes:
    n = len(packed)
    flat = np.unpackbits(packed, axis=1)[:, : length * size[0] * size[1]]
    masks = torch.from_numpy(flat.reshape(n, length, *size).astype(bool))
    tubes = PackedTubes(n, length, size)
    for t in range(length):
        tubes.put(slice(0, n), t, masks[:, t])
        assert torch.equal(tubes.frame(t), masks[:, t])
    return tubes
