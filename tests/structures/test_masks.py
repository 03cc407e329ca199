"""Masks as RLE, bits and label maps: each form gives back the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vis_projects.structures import (
    decode_masks,
    encode_masks,
    encode_packed,
    label_map_to_masks,
    mask_area,
    masks_of,
    masks_to_label_map,
    pack_masks,
)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (37, 53), (16, 8)])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_packed_bits_encode_to_the_same_rle(size: tuple[int, int], count: int) -> None:
    masks = torch.rand(count, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    direct = encode_masks(masks)
    assert encode_packed(pack_masks(masks)) == direct
    assert np.array_equal(decode_masks(direct, size), masks.numpy())
    assert [mask_area(r) for r in direct] == masks.flatten(1).sum(1).tolist()


def test_absent_masks_decode_to_nothing() -> None:
    assert not decode_masks([None, None], (3, 4)).any()
    assert mask_area(None) == 0


def test_later_masks_lie_over_earlier_ones() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :3] = True
    masks[1, 2:] = True
    labels = masks_to_label_map(masks, [7, 3])
    assert labels[:2].unique().tolist() == [7]
    assert labels[2:].unique().tolist() == [3]
    again = label_map_to_masks(labels, [7, 3])
    assert torch.equal(again[1], masks[1])
    assert torch.equal(again[0], masks[0] & ~masks[1])


def test_masks_of_label_map_and_dict_agree() -> None:
    labels = np.array([[0, 2, 2], [5, 0, 5]], np.uint8)
    ids, masks = masks_of(labels, (2, 3))
    again, same = masks_of({5: labels == 5, 2: labels == 2}, (2, 3))
    assert ids == again == [2, 5]
    assert torch.equal(masks, same)


def test_void_of_a_label_map_is_no_object() -> None:
    ids, _ = masks_of(np.array([[0, 1, 255]], np.uint8), (1, 3))
    assert ids == [1]


@pytest.mark.parametrize(
    "masks", [np.zeros((3, 3), np.uint8), {1: np.zeros((2, 2))}], ids=["label map", "dict"]
)
def test_wrong_size_is_named(masks) -> None:
    with pytest.raises(ValueError, match="rows x columns"):
        masks_of(masks, (2, 3))


def test_ids_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        masks_of({0: np.ones((2, 3))}, (2, 3))
