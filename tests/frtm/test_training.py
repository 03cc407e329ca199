"""FRTM's offline training: losses, cached target models, the trunk from nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from vis_projects.config import load_config
from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.target_cache import TargetCache
from vis_projects.frtm.target_model import TargetModel
from vis_projects.structures import InputError

from .tiny_frtm import SIZE, clip, tiny


def item(seed: int = 0, visible: bool = True) -> dict:
    images, labels = clip(1, 3)
    instances = []
    for t in range(3):
        some = Instances(SIZE)
        masks = labels[t : t + 1] == 1
        some.gt_masks = BitMasks(torch.from_numpy(masks if visible or t == 0 else masks[:0]))
        instances.append(some)
    return {
        "image": [torch.from_numpy(i).permute(2, 0, 1) for i in images],
        "instances": instances,
        "video_id": f"v{seed}",
        "frame_indices": [0, 1, 2],
        "object_id": 1,
        "dataset": "d",
    }


def test_losses_train_the_network_alone():
    model = tiny(
        "MODEL.FRTM.TRAINING.SAMPLES", 3, "MODEL.FRTM.TRAINING.INIT_STEPS", "(2, 2)"
    ).train()
    assert not model.backbone.training and model.refiner.training
    losses = model([item(0), item(1, visible=False)])
    assert sorted(losses) == ["loss_mask_1", "loss_mask_2"]
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(torch.isfinite(p.grad).all() for p in model.refiner.parameters())
    assert len(model.training_losses.cache._models) == 2


def test_losses_of_base_net():
    model = tiny("MODEL.FRTM.TARGET_MODEL", "encoder").train()
    losses = model([item(0), item(1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_training_size_resizes():
    model = tiny("MODEL.FRTM.TRAINING.SIZE", "(48, 64)", "MODEL.FRTM.TRAINING.SAMPLES", 2).train()
    shapes = []
    model.refiner.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    model([item()])
    assert shapes == [(1, 1, 48, 64)] * 2


def test_cache_reads_what_it_wrote(tmp_path):
    backbone = ResNetFeatures(18)
    model = TargetModel.random(1, 256, 4, generator=torch.Generator().manual_seed(0))
    cache = TargetCache(tmp_path, "resnet18-c4")
    cache.get("d/v", 12, 3, lambda: model, backbone=backbone)
    file = tmp_path / "resnet18-c4" / "d" / "v" / "00012.3.layer4.pth"
    assert set(torch.load(file, weights_only=True)) == {"project.weight", "filter.weight"}

    def never():
        raise AssertionError("the file was there")

    other = TargetCache(tmp_path, "resnet18-c4")
    got = other.get("d/v", 12, 3, never, backbone=backbone)
    assert torch.equal(got.project, model.project) and torch.equal(got.filter, model.filter)
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match="00012.3"):
        TargetCache(tmp_path, "resnet18-c4").get("d/v", 12, 3, never, backbone=backbone)
    with torch.no_grad():
        backbone.conv1.weight.mul_(2)
    with pytest.raises(InputError, match="other backbone"):
        TargetCache(tmp_path, "resnet18-c4").get("d/v", 12, 3, never, backbone=backbone)
    small = TargetCache(None, "x", limit=2)
    for frame in range(5):
        small.get("v", frame, 1, lambda: replace(model))
    assert len(small._models) == 2


@pytest.mark.slow
def test_trunk_learns_something_in_a_few_steps():
    torch.manual_seed(0)
    trunk = build_model(load_config("configs/frtm/trunk_synthetic.yaml")).train()
    images, labels = clip(2, 2)
    pair = {"image": [torch.from_numpy(i).permute(2, 0, 1) for i in images], "instances": []}
    for t in range(2):
        some = Instances(SIZE)
        some.gt_ids = torch.tensor([1, 2][: 2 - t])  # object 2 is gone in the second frame
        some.gt_masks = BitMasks(
            torch.from_numpy(np.stack([labels[t] == 1, labels[t] == 2])[: 2 - t])
        )
        pair["instances"].append(some)
    optimizer = torch.optim.AdamW(trunk.parameters(), 1e-3)
    totals = []
    for _ in range(4):
        losses = trunk([pair, pair])
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sorted(losses) == ["loss_mask", "loss_score"]
    assert totals[-1] < totals[0]
