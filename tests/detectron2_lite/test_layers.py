"""Layers: recorded figures, identities, slow versions, empty input, batch norm over processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    cross_entropy,
    get_norm,
    nms,
    nonzero_tuple,
    paste_masks_in_image,
    shapes_to_tensor,
)
from detectron2.structures import Boxes
from torch import distributed, nn
from torch.nn import functional as F


@pytest.fixture(scope="module")
def small(golden):
    file = golden("detectron2/small.npz")
    return {k: torch.from_numpy(v) for k, v in np.load(file).items()}


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_as_recorded(small, aligned, ratio):
    pool = ROIAlign((5, 7), 0.25, ratio, aligned=bool(aligned))
    out = pool(small["roialign_feat"], small["roialign_rois"])
    torch.testing.assert_close(
        out, small[f"roialign_aligned{aligned}_ratio{ratio}"], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(AssertionError):
        pool(small["roialign_feat"], small["roialign_rois"][:, 1:])


@pytest.mark.parametrize("tenths", [3, 5, 7])
def test_batched_nms_as_recorded(small, tenths):
    boxes, scores, groups = small["nms_boxes"], small["nms_scores"], small["nms_idxs"]
    keep = batched_nms(boxes, scores, groups, tenths / 10)
    assert keep.tolist() == small[f"nms_keep_{tenths}"].tolist()
    assert (scores[keep].diff() < 0).all()
    # Group by group gives the same set.
    alone = [
        torch.nonzero(groups == g)[:, 0][nms(boxes[groups == g], scores[groups == g], tenths / 10)]
        for g in groups.unique()
    ]
    assert sorted(keep.tolist()) == sorted(torch.cat(alone).tolist())
    assert batched_nms(boxes[:0], scores[:0], groups[:0], 0.5).numel() == 0


def test_paste_as_recorded(small):
    masks, boxes = small["paste_masks"], small["paste_boxes"]
    hard = paste_masks_in_image(masks, Boxes(boxes), (80, 100), threshold=0.5)
    assert hard.dtype == torch.bool
    packed = np.packbits(hard.numpy().reshape(6, -1), axis=1)
    np.testing.assert_array_equal(packed, small["paste_out_packed"])
    assert hard.sum((1, 2)).tolist() == small["paste_area"].tolist()
    soft = paste_masks_in_image(masks[:2], boxes[:2], (80, 100), threshold=-1)
    np.testing.assert_array_equal(soft, small["paste_soft_uint8_first2"])


@pytest.mark.lite
def test_paste_whole_image_equals_windows(small):
    """An accelerator pastes whole images in chunks: same masks."""
    import detectron2.layers.mask_ops as mask_ops

    masks, boxes = small["paste_masks"], small["paste_boxes"]
    expected = paste_masks_in_image(masks, boxes, (80, 100))
    sample = getattr(mask_ops, "_sample")  # noqa: B009  (the provider's own)
    whole = sample(masks, boxes, window=(0, 0, 100, 80)) >= 0.5
    assert torch.equal(whole, expected)


@pytest.mark.parametrize(
    "box", [[5.0, 5, 5, 20], [200.0, 200, 220, 240], [-50.0, -40, -10, -5], [0.0, 0, 0, 0]]
)
def test_paste_of_boxes_without_pixels(box):
    out = paste_masks_in_image(torch.ones(1, 4, 4), torch.tensor([box]), (30, 40))
    assert out.shape == (1, 30, 40) and not out.any()


def test_paste_empty_and_full():
    assert paste_masks_in_image(torch.zeros(0, 4, 4), torch.zeros(0, 4), (3, 5)).shape == (0, 3, 5)
    full = paste_masks_in_image(torch.ones(1, 4, 4), torch.tensor([[0.0, 0, 5, 3]]), (3, 5))
    assert full.all()


@pytest.mark.usefixtures("float64")
@pytest.mark.lite
def test_conv_applies_norm_then_activation():
    conv = Conv2d(3, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=F.relu).eval()
    conv.norm.bias.data.fill_(-0.1)
    x = torch.randn(2, 3, 5, 6)
    expected = F.relu(conv.norm(F.conv2d(x, conv.weight, padding=1)))
    torch.testing.assert_close(conv(x), expected)
    assert set(conv.state_dict()) >= {"weight", "norm.weight", "norm.running_mean"}
    assert conv(x[:0]).shape == (0, 4, 5, 6)
    sync = Conv2d(3, 4, 1, norm=nn.SyncBatchNorm(4))
    with pytest.raises(AssertionError, match="empty"):
        sync(x[:0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("naiveSyncBN", NaiveSyncBatchNorm),
        ("naiveSyncBN_N", NaiveSyncBatchNorm),
        (lambda channels: nn.InstanceNorm2d(channels), nn.InstanceNorm2d),
    ],
)
def test_norm_by_name(name, kind):
    assert type(get_norm(name, 32)) is kind


@pytest.mark.usefixtures("float64")
@pytest.mark.lite
def test_other_norms():
    assert get_norm("", 8) is None and get_norm(None, 8) is None
    assert get_norm("GN", 64).num_groups == 32
    with pytest.raises(KeyError, match="GroupNorm"):
        get_norm("GroupNorm", 8)
    x = torch.randn(2, 8, 3, 4)
    norm = get_norm("LN", 8)
    norm.weight.data.uniform_()
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x).permute(0, 2, 3, 1), expected)


@pytest.mark.usefixtures("float64")
def test_frozen_batch_norm():
    norm = FrozenBatchNorm2d(4)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(norm(x), x)  # an identity until weights come
    assert not list(norm.parameters())
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    source = nn.BatchNorm2d(4)
    for tensor in (source.weight.data, source.bias.data, source.running_mean):
        tensor.normal_()
    source.running_var.uniform_(0.5, 2)
    norm.load_state_dict({k: v for k, v in source.state_dict().items() if "num" not in k})
    torch.testing.assert_close(norm(x), source.eval()(x))
    torch.testing.assert_close(norm(x.requires_grad_()), source(x))
    half = norm(x.detach().bfloat16().requires_grad_())
    assert half.dtype == torch.bfloat16


def test_frozen_batch_norm_without_statistics():
    """Old weight files hold only weight and bias: mean 0, variance 1."""
    norm = FrozenBatchNorm2d(4)
    norm.load_state_dict({"weight": torch.full((4,), 2.0), "bias": torch.ones(4)})
    assert norm.running_var.tolist() == [1.0] * 4 and norm.running_mean.tolist() == [0.0] * 4


@pytest.mark.usefixtures("float64")
def test_convert_frozen_batchnorm():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)), nn.SyncBatchNorm(4))
    x = torch.randn(4, 3, 5, 5)
    nn.Sequential(*net[:2])(x)  # moves the statistics
    net.eval()
    expected = net(x)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(net)
    assert frozen is net
    assert {type(m) for m in net.modules()} == {nn.Sequential, nn.Conv2d, FrozenBatchNorm2d}
    torch.testing.assert_close(net.train()(x), expected)
    assert "1.0.num_batches_tracked" in net.state_dict()
    assert isinstance(
        FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(2)), FrozenBatchNorm2d
    )


def test_block_freeze():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 4, 2)
            self.conv = Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4))

    block = Block().freeze()
    assert not any(p.requires_grad for p in block.parameters())
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)


def test_wrappers():
    x = torch.tensor([[0, 2], [3, 0]])
    assert cat([x]) is x and cat([x, x]).shape == (4, 2)
    with pytest.raises(AssertionError):
        cat(x)
    rows, columns = nonzero_tuple(x)
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    assert len(nonzero_tuple(torch.tensor(1))) == 1
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    assert cross_entropy(logits, target) == F.cross_entropy(logits, target)
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert ShapeSpec(channels=3) == ShapeSpec(3, None, None, None)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["naiveSyncBN", "naiveSyncBN_N", "SyncBN"])
def test_sync_norms_alone_are_batch_norm(kind):
    """Without a process group, and in evaluation."""
    torch.manual_seed(0)
    norm, plain = get_norm(kind, 5), nn.BatchNorm2d(5)
    x = torch.randn(3, 5, 4, 4)
    torch.testing.assert_close(norm(x), plain(x))
    torch.testing.assert_close(norm.running_var, plain.running_var)
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))
    assert set(norm.state_dict()) == set(plain.state_dict())


def _sync_norm_worker(rank: int, init: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    torch.manual_seed(0)
    data = torch.randn(4, 5, 3, 3)
    report = {}
    for kind, parts in [
        ("naiveSyncBN", (slice(0, 2), slice(2, 4))),
        ("naiveSyncBN_N", (slice(0, 3), slice(3, 4))),
        ("naiveSyncBN_N", (slice(0, 4), slice(4, 4))),
    ]:
        norm = get_norm(kind, 5)
        x = data[parts[rank]].clone().requires_grad_()
        out = norm(x)
        (out**3).sum().backward()
        report[f"{kind}-{len(data[parts[0]])}"] = {
            "out": out.tolist(),
            "grad": x.grad.tolist(),
            "weight": norm.weight.grad.tolist(),
            "mean": norm.running_mean.tolist(),
            "var": norm.running_var.tolist(),
        }
    errors = []
    for kind, x in [("SyncBN", data), ("naiveSyncBN", data[:0])]:
        try:
            get_norm(kind, 5)(x)
            errors.append("")
        except (ValueError, AssertionError) as error:
            errors.append(str(error))
    report["errors"] = errors
    nothing = get_norm("naiveSyncBN_N", 5)
    nothing(data[:0].clone().requires_grad_()).sum().backward()
    report["untouched"] = nothing.running_mean.tolist() + nothing.running_var.tolist()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(report, file)
    distributed.destroy_process_group()


@pytest.mark.lite
@pytest.mark.slow
def test_sync_norms_in_two_processes(tmp_path):
    """Outputs, gradients and statistics are those of one process with the whole batch."""
    init = f"file://{tmp_path}/init"
    torch.multiprocessing.spawn(_sync_norm_worker, args=(init, str(tmp_path)), nprocs=2)
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    torch.manual_seed(0)
    whole = torch.randn(4, 5, 3, 3).requires_grad_()
    plain = nn.BatchNorm2d(5)
    out = plain(whole)
    (out**3).sum().backward()
    biased = whole.detach().var((0, 2, 3), correction=0)
    for key in ("naiveSyncBN-2", "naiveSyncBN_N-3", "naiveSyncBN_N-4"):
        both = [r[key] for r in reports]

        def joined(name, both=both):
            return torch.tensor(both[0][name] + both[1][name])

        torch.testing.assert_close(joined("out"), out.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joined("grad"), whole.grad, rtol=1e-3, atol=1e-4)
        weight = torch.tensor(both[0]["weight"]) + torch.tensor(both[1]["weight"])
        torch.testing.assert_close(weight, plain.weight.grad, rtol=1e-4, atol=1e-4)
        for report in both:
            torch.testing.assert_close(torch.tensor(report["mean"]), plain.running_mean)
            torch.testing.assert_close(torch.tensor(report["var"]), 0.9 + 0.1 * biased)
    for report in reports:
        assert "GPU" in report["errors"][0], "torch's SyncBatchNorm takes no CPU tensors"
        assert "empty" in report["errors"][1]
        assert report["untouched"] == [0.0] * 5 + [1.0] * 5
