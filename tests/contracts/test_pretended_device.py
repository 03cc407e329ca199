"""Every system on a pretended accelerator: nothing on the wrong device, no wait that is not meant.

One training step (forward, backward, optimiser) and three test frames of each. ``ALLOWED`` is the
whole list of places where the host waits for the device; a new one has to be argued for here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from pretended_device import NAME, Pretended, Watch, pretended_device
from systems import CASES, SystemCase

from vis_projects.config import load_config
from vis_projects.data import build_train_loader
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.modeling import VideoModel
from vis_projects.msn.selection_pairs import write_pairs
from vis_projects.structures import ArraySource, encode_masks

# Per system: frames at test, and one training step. "file.py:function": what waits there. Inside
# Detectron2 (non-maximum suppression, assignment, pasting, moving Instances) waits are its own.
ALLOWED: dict[str, dict[str, dict[str, str]]] = {
    "copy_first": {"test": {}},
    "feature_match": {"test": {}},
    "crossvis": {
        "test": {
            # As many detections as score: their number is the frame's result.
            "crossvis/fcos.py:detect": "nonzero",
            "crossvis/fcos.py:_best": "index by a mask",
            "crossvis/condinst.py:detect": "nonzero",
            # Embeddings meet the gallery's names on the host, once a frame.
            "crossvis/gallery.py:update": "copy to the host",
        },
        "train": {
            # As many positives as the ground truth gives.
            "crossvis/fcos_targets.py:__call__": "copy from the host, nonzero",
            "crossvis/fcos.py:losses": "copy from the host",
            "crossvis/condinst.py:_best_per_object": "bincount, index by a mask",
            "crossvis/condinst.py:choose_positives": "index by a mask",
            "crossvis/crossover.py:_ids": "copy from the host, repeat_interleave",
            "crossvis/crossover.py:borrow": "_local_scalar_dense, bincount, nonzero",
        },
    },
    "cfbi": {
        "test": {
            # Pixels per object of a new reference: slices need them on the host.
            "cfbi/matching.py:collect": "bincount, copy to the host",
            # Matrices of a size, cached.
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
        "train": {
            "cfbi/matching.py:collect": "bincount, copy to the host",
            "cfbi/training.py:forward": "_local_scalar_dense",  # the step, once after loading
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
    },
    "consensus_voting": {
        "test": {
            # The masks that a frame's votes decide are kept as RLE: once a frame.
            "structures/masks.py:encode_masks": "copy to the host",
            # Which tracks are one object: once a video.
            "consensus_voting/model.py:_voted": "copy to the host",
        },
    },
    "srnet": {
        "test": {},
        "train": {
            # Targets are made of the items' masks; as many cells as these have.
            "srnet/model.py:losses": "copy from the host",
            "srnet/targets.py:draw": "copy from the host",
            "srnet/targets.py:frame_targets": "copy from the host, index by a mask",
            "srnet/targets.py:owned_cells": "copy from the host",
            "srnet/heat_map.py:disturb": "copy from the host",
        },
    },
    "frtm": {
        "test": {
            # Augmentation is OpenCV's, once per object that enters.
            "frtm/tracker.py:first_samples": "copy to the host",
            # Matrices of a size, cached.
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
        "train": {
            "frtm/target_model.py:to": "copy to the host",  # a new target model, kept on the host
            "frtm/training.py:losses": "_local_scalar_dense",  # an IoU for the log, now and then
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
    },
    "frtm_matching": {
        "test": {
            # Matrices of a size, cached.
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
        "train": {
            "frtm/training.py:losses": "_local_scalar_dense",  # an IoU for the log, now and then
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
    },
    "seq_mask_rcnn": {
        "test": {
            # Which detections become proposals, and the reduction of sequences, are decided on the
            # host: once a key frame and once a video.
            "seq_mask_rcnn/propose_reduce.py:__call__": "copy to the host",
            "seq_mask_rcnn/propose_reduce.py:proposals": "copy from the host, copy to the host",
            "seq_mask_rcnn/propose_reduce.py:sequences": "copy to the host",
            "seq_mask_rcnn/seq_prop_head.py:rows_of": "copy from the host",
            "seq_mask_rcnn/sequence_scores.py:boxes_of_masks": "copy from the host",
            "seq_mask_rcnn/sequence_tracks.py:assemble_tracks": "copy from the host",
        },
        "train": {
            # As many pairs of guidance and query as share an object.
            "seq_mask_rcnn/roi_heads.py:guidance_masks": "copy from the host",
            "seq_mask_rcnn/roi_heads.py:propagated_pairs": "nonzero",
            "seq_mask_rcnn/roi_heads.py:propagation_loss": "copy from the host",
            "outside": "index by a mask",  # the backward pass of such a choice
        },
    },
    "msn": {
        "test": {
            "cfbi/matching.py:collect": "bincount, copy to the host",
            # Matrices of a size, cached.
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
            # Objects are admitted and masks chosen on the host, a fixed number of copies a frame;
            # detections are kept there as RLE between the two directions.
            "msn/association.py:decide_frame": "copy to the host",
            "msn/association.py:drop_duplicates": "copy from the host, copy to the host",
            "msn/detections.py:as_detections": "copy to the host",
            "msn/detections.py:masks": "copy from the host",
            "msn/detections.py:select_detections": "copy from the host, nonzero",
            "msn/direction.py:_remember": "copy to the host",
            "msn/direction.py:masks": "copy from the host",
            "msn/direction.py:run_direction": "copy from the host",
            "msn/final_tracks.py:_merge": "copy to the host",
            "msn/final_tracks.py:forward_better": "copy from the host",
            "msn/model.py:_forward_better": "copy to the host",
            "structures/masks.py:encode_masks": "copy to the host",
        },
    },
}


@dataclass
class Ran:
    """What was seen: a wait per place, and the result."""

    waits: dict[str, str]
    result: object


def seen(watch: Watch, result: object) -> Ran:
    places: dict[str, set[str]] = {}
    for place, what in watch.waits:
        places.setdefault(place, set()).add(what)
    return Ran({p: ", ".join(sorted(w)) for p, w in places.items()}, result)


def trained_step(model: torch.nn.Module, batch: list) -> Ran:
    """Forward, backward, optimiser; the result holds the gradients."""
    with pretended_device() as watch:
        model.to(NAME)
        watch.waits.clear()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-3)
        with EventStorage():  # Detectron2's heads report to it
            total = sum(model(batch).values())
        total.backward()
        optimizer.step()
    return seen(watch, [p.grad for p in trained if p.grad is not None])


def three_frames(model: VideoModel, case: SystemCase) -> Ran:
    """Three frames; the result is the video's."""
    images, labels = moving_boxes(case.size, 2, frames=3)
    with pretended_device() as watch:
        model.to(NAME)
        watch.waits.clear()
        source = ArraySource(images, size=case.size, image_format=model.input_format)
        result = model.run_video(source, {0: labels[0]} if model.takes_masks else None)
    return seen(watch, result)


def run(case: SystemCase, phase: str) -> Ran:
    model = case.build()
    if phase == "test":
        return three_frames(model, case)
    batch = next(iter(build_train_loader(case.cfg(**{"DATALOADER.NUM_WORKERS": 0}))))
    return trained_step(model.train(), batch)


# What is trained by a config of its own and is no system on videos: config, overrides, waits.
STILLS = ("DATASETS.TRAIN", "('synthetic_stills_train:videos=4',)", "SOLVER.IMS_PER_BATCH", "2")
PARTS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "condinst": (
        "configs/crossvis/CondInst_quickstart_synthetic.yaml",
        STILLS,
        {
            "crossvis/fcos_targets.py:__call__": "copy from the host, nonzero",
            "crossvis/fcos.py:losses": "copy from the host",
            "crossvis/condinst.py:_best_per_object": "bincount, index by a mask",
            "crossvis/condinst.py:choose_positives": "index by a mask",
        },
    ),
    "frtm_trunk": (
        "configs/frtm/trunk_synthetic.yaml",
        ("INPUT.AUGMENTATIONS.CROP.SIZE", "(64, 64)", "SOLVER.IMS_PER_BATCH", "2"),
        {
            "modeling/backbones/enlarged_convolution.py:of": "copy from the host",
        },
    ),
    "msn_detector": (
        "configs/msn/quickstart_detector.yaml",
        (*STILLS, "MODEL.FPN.OUT_CHANNELS", "16", "INPUT.SAMPLER.BALANCE", "uniform"),
        {"outside": "index by a mask"},  # the backward pass of the choice of what is positive
    ),
    "msn_selection": ("configs/msn/quickstart_selection.yaml", ("SOLVER.IMS_PER_BATCH", "4"), {}),
    "msn_reclassifier": (
        "configs/msn/reclassifier_ytvis2021.yaml",
        (
            *("MODEL.MSN.CLASSIFIER.NAME", "test_efficientnet", "DATASETS.CLASS_MAPS", "()"),
            *("MODEL.MSN.CLASSIFIER.PRETRAINED", "False", "MODEL.MSN.CLASSIFIER.SIZE", "64"),
            *("MODEL.MSN.CLASSIFIER.NUM_CLASSES", "4", "INPUT.SAMPLER.BALANCE", "uniform"),
            *STILLS,
        ),
        {},
    ),
}


def pairs_file(folder: Path) -> str:
    """A file with a few pairs of masks on a synthetic video."""
    masks = torch.zeros(2, 96, 160, dtype=torch.bool)
    masks[0, 10:60, 20:90] = masks[1, 30:80, 20:90] = True
    a, b = encode_masks(masks)
    place = {"dataset": "synthetic_train:videos=2:length=2", "video": 1, "frame": 0}
    pair = {**place, "a": a, "b": b, "iou_a": 0.9, "iou_b": 0.5}
    write_pairs(folder / "pairs.json.gz", {"train_all": [pair] * 4}, {})
    return f"('{folder / 'pairs.json.gz'}',)"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "frtm_trunk" else n for n in PARTS],
)
def test_parts_train_where_they_should(name: str, tmp_path: Path) -> None:
    config, opts, allowed = PARTS[name]
    opts = (*opts, "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "")
    if name == "msn_selection":
        opts = (*opts, "MODEL.MSN.SELECTOR.PAIRS", pairs_file(tmp_path))
    cfg = load_config(config, list(opts))
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = next(iter(getattr(model, "build_train_loader", build_train_loader)(cfg)))
    ran = trained_step(model, batch)
    assert ran.result and all(isinstance(g, Pretended) for g in ran.result)
    ran.waits.pop("detectron2", None)
    assert ran.waits == allowed


SLOW = ("cfbi-train", "frtm-train", "msn-test")  # CFBI's and FRTM's tests at test stay fast
RUNS = [
    pytest.param(
        case,
        phase,
        id=f"{case.name}-{phase}",
        marks=[pytest.mark.slow] if f"{case.name}-{phase}" in SLOW else [],
    )
    for case in CASES
    for phase in ("test", "train")
    if phase == "test" or case.overfit_steps
]


@pytest.mark.parametrize(("case", "phase"), RUNS)
def test_runs_where_it_should_and_waits_where_it_may(case: SystemCase, phase: str) -> None:
    ran = run(case, phase)
    if phase == "train":
        assert ran.result and all(isinstance(g, Pretended) for g in ran.result)
    else:
        assert ran.result.length == 3
    ran.waits.pop("detectron2", None)
    assert ran.waits == ALLOWED[case.name][phase]


def test_mixed_devices_and_waits_are_seen() -> None:
    with pretended_device() as watch:
        x = torch.rand(4, 5).to(NAME)
        with pytest.raises(RuntimeError, match="two devices in aten.add"):
            x + torch.ones(5)
        assert (x + 1).device.type == NAME
        x.mean().item(), x[x > 0], x.nonzero(), x[:, [0, 1]], x.cpu(), x.tolist()
        torch.tensor([1.0, 2.0], device=NAME)
        made = torch.zeros(3, device=NAME) + x.new_ones(3)
    assert isinstance(made, Pretended)
    assert {what for _, what in watch.waits} == {
        *("_local_scalar_dense", "index by a mask", "nonzero", "copy from the host"),
        "copy to the host",
    }
    assert watch.waits["outside", "copy from the host"] == 3  # x, the list of columns, the numbers


@pytest.mark.parametrize("case", [c for c in CASES if c.overfit_steps], ids=lambda c: c.name)
def test_autocast_leaves_losses_and_gradients_in_float32(case: SystemCase) -> None:
    """What autocast brings to half precision on the CPU, where it can be looked at."""
    model = case.build().train()
    batch = next(iter(build_train_loader(case.cfg(**{"DATALOADER.NUM_WORKERS": 0}))))
    formats = set()
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(
                lambda _, __, out: formats.add(out.dtype) if torch.is_grad_enabled() else None
            )
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    assert torch.bfloat16 in formats  # the networks run in it
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values())
    sum(losses.values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)
