"""The whole tracker against recordings of the authors' tracker."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace

import fill
import numpy as np
import pytest
import torch

from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.segmentation_network import SegmentationNetwork
from vis_projects.frtm.target_learner import TargetOptions
from vis_projects.frtm.target_model import TargetModel
from vis_projects.frtm.tracker import ObjectTracker
from vis_projects.modeling import Preprocess
from vis_projects.structures import Frame

FULL = {"init_steps": (5, 10, 10, 10, 10), "update_steps": (10,)}


def load_inputs(golden):
    spec = importlib.util.spec_from_file_location("frtm_inputs", golden("frtm/inputs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    state = {
        k: torch.from_numpy(fill.values(prefix + k, tuple(v.shape)).copy()).to(v.dtype)
        for k, v in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


class RecordedTracker(ObjectTracker):
    """Starts as the recordings did: the first frame five times, filled filters."""

    def augment(self, image, mask, samples, object_id):
        return np.stack([image] * samples), np.stack([mask] * samples)

    def initial_model(self, ids, channels):
        width = self.options.width
        model = TargetModel.from_state(
            torch.from_numpy(fill.values("project.weight", (width, channels, 1, 1))),
            torch.from_numpy(fill.values("filter.weight", (1, width, 3, 3))),
        )
        n = len(ids)
        return TargetModel(model.project.repeat(n, 1, 1), model.filter.repeat(n, 1, 1))


def run(golden, name: str, *, dtype: torch.dtype = torch.float32):
    """Return (recorded data, label maps (T, H, W), {t: scores}, {t: logits})."""
    inputs = load_inputs(golden)
    data = np.load(golden("frtm/tracker.npz"))
    setting = json.loads(str(data[f"{name}/setting"]))
    t, h, w = setting["T"], setting["h"], setting["w"]
    frames, labels = inputs.clip(fill, setting["seed"], t, h, w, setting["objs"])
    assert hashlib.sha256(frames.tobytes()).hexdigest() == str(data[f"{name}/sha256_frames"])
    assert hashlib.sha256(labels.tobytes()).hexdigest() == str(data[f"{name}/sha256_labels"])
    backbone = filled(ResNetFeatures(18))
    network = filled(SegmentationNetwork(backbone.channels), "refiner.")
    with torch.no_grad():
        for key, index, value in inputs.PATH:
            network.get_parameter(key)[index] += value
    options = TargetOptions(dtype=dtype, **({} if setting["fast"] else FULL))
    if "disc" in setting:
        own = setting["disc"]
        options = replace(
            options,
            filter_reg=tuple(own["filter_reg"]),
            precondition=tuple(own["precond"]),
            init_steps=tuple(own["init_iters"]),
            update_steps=tuple(own["update_iters"]),
            cg_forget_rate=own["CG_forgetting_rate"],
        )
    preprocess = Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), frame_format="RGB")
    tracker = RecordedTracker(backbone, network, preprocess=preprocess, options=options)
    tracker.reset((h, w))
    starts = {}
    for i, start, *_ in setting["objs"]:
        starts.setdefault(start, []).append(i)
    scores, logits = {}, {}
    network.register_forward_pre_hook(
        lambda _, args: scores.__setitem__(len(out), args[0][:, 0].clone())
    )
    network.register_forward_hook(
        lambda _, __, value: logits.__setitem__(len(out), value[:, 0].clone())
    )
    out: list[np.ndarray] = []
    with torch.no_grad():
        for index in range(t):
            ids = sorted(starts.get(index, []))
            masks = torch.from_numpy(np.stack([labels[index] == i for i in ids])) if ids else None
            frame = Frame(torch.from_numpy(frames[index]).permute(2, 0, 1), index)
            out.append(tracker.labels(tracker.step(frame, ids, masks)).numpy())
    return data, np.stack(out), scores, logits


def recorded_frames(data, name: str, kind: str) -> list[int]:
    """The frames of which a case records scores or logits."""
    keys = (key.split("/") for key in data.files if key.startswith(f"{name}/{kind}/"))
    return sorted({int(key[2]) for key in keys})


@pytest.mark.recorded_cases("name", "frtm/tracker.npz", r"(.*stable)/setting")
def test_reproducible_setting(golden, name):
    data, labels, scores, logits = run(golden, name)
    equal = (labels == data[f"{name}/labels_f64"]).mean((1, 2))
    assert equal.min() >= 0.999
    for t in recorded_frames(data, name, "scores"):
        wanted = data[f"{name}/scores/{t}/f64"]
        assert np.abs(scores[t].numpy() - wanted).max() < 2e-3 * np.abs(wanted).max(), t
    for t in recorded_frames(data, name, "logits"):
        wanted = data[f"{name}/logits/{t}/f64"]
        assert np.abs(logits[t].numpy() - wanted).max() < 5e-3 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.recorded_cases("name", "frtm/tracker.npz", r"((?!.*stable/).*)/setting")
def test_real_settings(golden, name):
    data, labels, scores, _ = run(golden, name)
    equal = (labels == data[f"{name}/labels_f64"]).mean((1, 2))
    assert equal[:9].min() >= 0.985 and equal[9:].min() >= 0.95, equal
    for t in recorded_frames(data, name, "scores"):
        wanted = data[f"{name}/scores/{t}/f64"]
        for got, one in zip(scores[t].numpy(), wanted):
            correlation = np.corrcoef(got.ravel(), one.ravel())[0, 1]
            assert correlation > (0.998 if t < 9 else 0.97), t


@pytest.mark.slow
@pytest.mark.recorded_cases("name", "frtm/tracker.npz", r"(.*stable)/setting")
def test_float64_solver_is_no_worse(golden, name):
    data, labels, _, _ = run(golden, name, dtype=torch.float64)
    assert (labels == data[f"{name}/labels_f64"]).mean((1, 2)).min() >= 0.999
