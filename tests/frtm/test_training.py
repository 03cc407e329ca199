"""FRTM's offline training: losses, cached target models, the trunk from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from vis_projects.config import load_config
from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.model import frames_vary
from vis_projects.frtm.target_cache import TargetCache
from vis_projects.frtm.target_learner import TargetOptions
from vis_projects.frtm.target_model import TargetModel
from vis_projects.frtm.training import resize_pair
from vis_projects.structures import InputError

from .tiny_frtm import SIZE, clip, tiny

CONFIGS = Path(__file__).parents[2] / "configs" / "frtm"
REAL = sorted(
    str(f.relative_to(CONFIGS.parents[1]))
    for f in (*CONFIGS.glob("R*.yaml"), *CONFIGS.glob("ablations/*.yaml"))
)


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


def test_learned_and_applied_at_one_size():
    """The test's size rule does not touch the frame that a target model is learned on."""
    model = tiny("INPUT.MIN_SIZE_TEST", 96, "MODEL.FRTM.TRAINING.SAMPLES", 3).train()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-2:]))
    model([item()])
    assert len(sizes) == 4 and set(sizes) == {SIZE}  # a frame, its augmentations, two frames


def test_resize_filters():
    image = torch.rand(3, 60, 80) * 255
    mask = torch.rand(60, 80) > 0.5
    bilinear = cv2.resize(image.permute(1, 2, 0).numpy(), (40, 30))
    resized, _ = resize_pair(image, mask, (30, 40))
    assert np.abs(resized.permute(1, 2, 0).numpy() - bilinear).max() < 1e-2
    assert not torch.equal(resize_pair(image, mask, (30, 41), "area_bicubic")[0],
                           resize_pair(image, mask, (30, 41))[0])  # fmt: skip
    with pytest.raises(ValueError, match="RESIZE_FILTER 'nearest'"):
        tiny("MODEL.FRTM.TRAINING.RESIZE_FILTER", "nearest")


@pytest.mark.parametrize("config", REAL)
def test_real_configs_train_with_one_preset_and_keep_target_models(config):
    cfg = load_config(config)
    own = cfg.MODEL.FRTM.TRAINING
    options = TargetOptions.from_config(cfg).for_training(cfg)
    assert (options.fill, options.cg_variant) == ("telea", "polak_ribiere")
    assert options.cg_forget_rate == 75
    assert own.HEAD_RESIZE == "bicubic_bilinear"
    assert own.CACHE_DIR == "output/frtm/targets"
    assert frames_vary(cfg) == ""


def test_youtube_vos_trains_with_the_main_head():
    """The heads differ where a side is no multiple of four, as in the 854 columns of training."""
    opts = ("MODEL.FRTM.TRAINING.SIZE", "(48, 66)", "MODEL.FRTM.BACKBONE_WEIGHTS", "")
    outputs = []
    for config in ("R18_fast_davis2017", "R18_fast_ytvos2018"):
        model = tiny(*opts, config=f"configs/frtm/{config}.yaml").train()
        maps = torch.rand(1, 64, 12, 17, generator=torch.Generator().manual_seed(0))
        trained = model.refiner.project(maps, (48, 66))
        outputs += [trained, model.refiner.eval().project(maps, (48, 66))]
    davis, davis_eval, youtube, youtube_eval = outputs
    assert torch.equal(davis, youtube) and torch.equal(davis, davis_eval)
    assert not torch.allclose(youtube, youtube_eval, atol=1e-3)


def test_a_second_run_learns_nothing(tmp_path, monkeypatch):
    """Files on disk serve a later run and another process, in the authors' layout."""
    opts = (
        *("MODEL.FRTM.TRAINING.CACHE_DIR", str(tmp_path), "MODEL.FRTM.TRAINING.SAMPLES", 2),
        *("MODEL.FRTM.TRAINING.INIT_STEPS", "(2, 2)", "MODEL.FRTM.TRAINING.WIDTH", 8),
    )
    first = tiny(*opts).train()([item(0)])
    assert (tmp_path / "resnet18-c8" / "v0" / "00000.1.layer4.pth").is_file()
    again = tiny(*opts).train()
    monkeypatch.setattr(again.training_losses, "_learn", None)
    assert {k: v.item() for k, v in again([item(0)]).items()} == {
        k: v.item() for k, v in first.items()
    }
    other = tiny(*opts, "MODEL.FRTM.TRAINING.CG_FORGET_RATE", 5.0).train()
    with pytest.raises(InputError, match="other settings"):
        other([item(0)])
    assert not list(tmp_path.rglob("*.tmp"))


def some_model(seed: int = 0) -> TargetModel:
    return TargetModel.random(1, 256, 4, generator=torch.Generator().manual_seed(seed))


def test_sequences_of_one_name_are_kept_apart(tmp_path):
    cache = TargetCache(tmp_path, "c")
    for seed, name in enumerate(("youtube_vos_2018_local_train", "synthetic")):
        cache.get("bear", 0, 1, lambda seed=seed: some_model(seed), dataset=name)
    again = TargetCache(tmp_path, "c")
    for seed, name in enumerate(("youtube_vos_2018_train", "synthetic")):
        model = again.get("bear", 0, 1, lambda: pytest.fail("it was there"), dataset=name)
        assert torch.equal(model.project, some_model(seed).project)
    files = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.pth"))
    assert files == ["c/bear/00000.1.layer4.pth", "c/synthetic/bear/00000.1.layer4.pth"]


# In a process of its own, which forks before it has threads: a fork of the test's process would
# inherit locks that nobody frees.
FOUR_RANKS = """
import multiprocessing
import sys
import torch
from vis_projects.frtm.target_cache import TargetCache
from vis_projects.frtm.target_model import TargetModel

def fill(rank):
    cache = TargetCache(sys.argv[1], "c", settings="s")
    for frame in range(20):
        generator = torch.Generator().manual_seed(frame)
        learn = lambda: TargetModel.random(1, 256, 4, generator=generator)
        cache.get("v", frame, 1, learn, dataset=f"set{rank % 2}")

ranks = [multiprocessing.get_context("fork").Process(target=fill, args=(r,)) for r in range(4)]
for rank in ranks:
    rank.start()
for rank in ranks:
    rank.join()
sys.exit(any(rank.exitcode for rank in ranks))
"""


def test_processes_share_a_folder(tmp_path):
    """Ranks that learn the same models at once leave whole files and nothing else."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FOUR_RANKS, str(tmp_path)]
    subprocess.run(command, cwd=CONFIGS.parents[1], env=env, check=True)
    cache = TargetCache(tmp_path, "c", settings="s")
    for name in ("set0", "set1"):
        for frame in range(20):
            model = cache.get("v", frame, 1, lambda: pytest.fail("lost"), dataset=name)
            assert torch.equal(model.filter, some_model(frame).filter)
    assert len(list(tmp_path.rglob("*.pth"))) == 40 and not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cache = TargetCache(tmp_path / "file", "c")
    with pytest.raises(InputError, match="CACHE_DIR .*file"):
        cache.get("v", 0, 1, some_model)


def test_cache_reads_what_it_wrote(tmp_path):
    backbone = ResNetFeatures(18)
    model = TargetModel.random(1, 256, 4, generator=torch.Generator().manual_seed(0))
    cache = TargetCache(tmp_path, "resnet18-c4")
    cache.get("v", 12, 3, lambda: model, backbone=backbone)
    file = tmp_path / "resnet18-c4" / "v" / "00012.3.layer4.pth"
    assert set(torch.load(file, weights_only=True)) == {"project.weight", "filter.weight"}

    def never():
        raise AssertionError("the file was there")

    other = TargetCache(tmp_path, "resnet18-c4")
    got = other.get("v", 12, 3, never, backbone=backbone)
    assert torch.equal(got.project, model.project) and torch.equal(got.filter, model.filter)
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match="00012.3"):
        TargetCache(tmp_path, "resnet18-c4").get("v", 12, 3, never, backbone=backbone)
    with torch.no_grad():
        backbone.conv1.weight.mul_(2)
    with pytest.raises(InputError, match="other backbone"):
        TargetCache(tmp_path, "resnet18-c4").get("v", 12, 3, never, backbone=backbone)
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
