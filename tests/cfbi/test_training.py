"""The loss of a clip: labels, sequences, degenerate clips."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from vis_projects.cfbi.network import CFBINetwork
from vis_projects.cfbi.preprocess import CFBIPreprocess
from vis_projects.cfbi.training import IGNORE, SequenceLoss, clip_labels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frame(ids: list[int], size: tuple[int, int] = (33, 49)) -> Instances:
    """Objects as vertical stripes, each at its own place."""
    masks = torch.zeros(len(ids), *size, dtype=torch.bool)
    for row, i in enumerate(ids):
        masks[row, 4:20, 5 * i : 5 * i + 5] = True
    instances = Instances(size)
    instances.gt_ids = torch.tensor(ids, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    return instances


def item(frames: list[list[int]]) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 255, (3, 33, 49), generator=generator, dtype=torch.uint8) for _ in frames
    ]
    return {"image": images, "instances": [frame(ids) for ids in frames]}


def test_labels_of_a_clip() -> None:
    valid = [torch.ones(33, 49, dtype=torch.bool) for _ in range(3)]
    valid[2][-3:] = False
    labels, objects = clip_labels([frame([4, 2]), frame([2]), frame([4, 6])], valid)
    assert objects == 3  # 2 and 4; object 6 was not introduced
    assert labels[0, 5, 11] == 1
    assert labels[0, 5, 21] == 2
    assert labels[2, 5, 31] == 0
    assert (labels[2, -3:] == IGNORE).all()


@pytest.fixture(scope="module")
def network() -> CFBINetwork:
    torch.manual_seed(0)
    return CFBINetwork(depth=18, width=32, embedding_dim=16, head_width=32, norm="BN")


@pytest.mark.parametrize(
    "frames",
    [[[1, 2], [1, 2], [1], [2]], [[], [], []], [[1], []], [[1]]],
    ids=["objects", "none", "two frames", "one frame"],
)
@pytest.mark.parametrize("sequential_from", [0, 100])
def test_every_clip_has_a_finite_loss(network, frames, sequential_from: int) -> None:
    loss = SequenceLoss(sequential_from=sequential_from)
    value = loss(network, CFBIPreprocess(MEAN, STD), [item(frames)])["loss_seg"]
    assert value.isfinite()
    value.backward()
    assert int(loss.step) == 1


def test_sequence_is_the_mean_of_its_frames(network) -> None:
    """A sequence with one current frame is that frame by itself."""
    network.eval()
    clip = item([[1, 2], [1, 2], [1, 2]])
    one, whole = (
        SequenceLoss(sequential_from=start)(network, CFBIPreprocess(MEAN, STD), [clip])
        for start in (100, 0)
    )
    assert torch.equal(one["loss_seg"], whole["loss_seg"])


def test_half_precision_spares_the_distances(network) -> None:
    """Under autocast a clip trains, and matching is what it is without."""
    loss = SequenceLoss(sequential_from=0)
    clip = item([[1, 2], [1, 2], [1, 2]])
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(network, CFBIPreprocess(MEAN, STD), [clip, clip])["loss_seg"]
    value.backward()
    assert value.isfinite()
    first, second = network.embed(torch.randn(2, 3, 33, 49))
    labels = torch.zeros(33, 49, dtype=torch.int64)
    labels[:20, :20] = 1
    pixels = network.collect([(first, labels)], 2)
    plain = network.prehead_input(second, pixels, (first, labels), 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.prehead_input(second, pixels, (first, labels), 2), plain)


def test_clips_of_several_sizes(network) -> None:
    """Clips of one size go through the extractor together; others may differ in size."""
    network.eval()
    loss = SequenceLoss(sequential_from=0, top_k_share=1.0)
    small, large = item([[1], [1], [1]]), item([[1, 2], [1, 2], [1, 2]])
    large["image"] = [x.repeat(1, 2, 1) for x in large["image"]]
    large["instances"] = [frame([1, 2], (66, 49)) for _ in range(3)]
    preprocess = CFBIPreprocess(MEAN, STD)
    alone = [loss(network, preprocess, [c])["loss_seg"] for c in (small, large)]
    both = loss(network, preprocess, [small, large])["loss_seg"]
    assert torch.allclose(both, sum(alone) / 2, atol=1e-5)
