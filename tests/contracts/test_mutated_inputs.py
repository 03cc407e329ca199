"""300 damaged inputs through the commands: one line and exit code 2 or 3, or a result; never more.

Bytes of images, videos, masks, jsons, archives and checkpoints are flipped, cut, swapped and
blanked; values of jsons are exchanged. Each command runs in a forked process, so that a crash of a
decoder or a hang counts as what it is. ``pytest -s`` shows the counts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from forked_commands import outcome as run_command
from PIL import Image
from pycocotools import mask as mask_util

from vis_projects.config import load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
COPY_FIRST = str(ROOT / "configs/copy_first/davis2017.yaml")
CROSSVIS = str(ROOT / "configs/crossvis/quickstart_synthetic.yaml")
SECONDS = 300  # after which a command hangs
SIZE, FRAMES = (48, 64), 4


# Mutations ----------------------------------------------------------------------------------------


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, swap, blank or repeat parts of a file."""
    out = bytearray(data)
    kind = rng.integers(7)
    a, b = sorted(rng.integers(0, max(len(out), 1), 2).tolist())
    if kind == 0:
        for place in rng.integers(0, len(out), 1 + int(rng.integers(20))):
            out[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        return bytes(out[:a])
    elif kind == 2:
        return bytes(out[:a] + out[b:])
    elif kind == 3:
        size = min(b - a, a, len(out) - b) // 2
        out[a - size : a], out[b : b + size] = out[b : b + size], out[a - size : a]
    elif kind == 4:
        out[a:b] = bytes(b - a)
    elif kind == 5:
        return bytes(out[:b] + out[a:])
    else:  # the header alone
        for place in rng.integers(0, min(len(out), 64), 3):
            out[place] = int(rng.integers(256))
    return bytes(out)


VALUES = (None, -1, 0, 2**40, 1.5, float("nan"), "x", "", [], {}, [[]], True, "../../x", [1, 2])


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Exchange, remove or double a value somewhere in a json; now and then its bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(data, rng)
    content = json.loads(data)
    node: Any = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        if rng.random() < 0.2:
            del node[key]
        elif isinstance(node, list) and rng.random() < 0.2:
            node.append(node[key])
        else:
            node[key] = VALUES[int(rng.integers(len(VALUES)))]
        break
    return json.dumps(content).encode()


# Inputs -------------------------------------------------------------------------------------------


def good_inputs(base: Path) -> None:
    """Write one good input of every kind."""
    images, labels = moving_boxes(SIZE, 2, frames=FRAMES)
    for part in ("frames", "vos/JPEGImages/v", "vos/Annotations/v", "results/v"):
        (base / part).mkdir(parents=True)
    for t in range(FRAMES):
        for folder in ("frames", "vos/JPEGImages/v"):
            cv2.imwrite(str(base / folder / f"{t}.jpg"), images[t])
        Image.fromarray(labels[t]).save(base / f"vos/Annotations/v/{t}.png")
        Image.fromarray(labels[max(t - 1, 0)]).save(base / f"results/v/{t}.png")
    Image.fromarray(labels[0]).save(base / "m.png")
    Image.fromarray(labels[0].astype(np.int32)).save(base / "m.tif")
    for name in ("clip.mp4", "clip.mkv"):
        with VideoWriter(base / name) as writer:
            for image in images:
                writer.add(image)
    truth = _json(labels)
    (base / "truth.json").write_text(json.dumps(truth))
    tracks = [
        {
            "video_id": 1,
            "category_id": a["category_id"],
            "score": 0.9,
            "segmentations": [_compressed(m == a["id"]) for m in labels],
        }
        for a in truth["annotations"]
    ]
    (base / "results.json").write_text(json.dumps(tracks))
    rows = [
        {"id": a["id"], "image_id": 1, "category_id": a["category_id"], "iscrowd": 0, "area": 9,
         "segmentation": [[2, 2, 30, 2, 30, 30, 2, 30]], "bbox": [2, 2, 28, 28]}
        for a in truth["annotations"]
    ]  # fmt: skip
    stills = {"info": {}, "images": [{"id": 1, "file_name": "0.jpg", "height": 48, "width": 64}],
              "categories": truth["categories"], "annotations": rows}  # fmt: skip
    (base / "stills.json").write_text(json.dumps(stills))
    model = build_model(load_config(CROSSVIS, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, base / "weights.pth")


def _json(labels: np.ndarray) -> dict[str, Any]:
    rows = []
    for i in (1, 2):
        # the second uncompressed, as YouTube-VIS 2019 has them
        form = _compressed if i == 1 else _uncompressed
        masks = [form(labels[t] == i) for t in range(FRAMES)]
        boxes = [[1.0, 1.0, 60.0, 45.0]] * FRAMES
        rows.append({"id": i, "video_id": 1, "category_id": i, "segmentations": masks,
                     "bboxes": boxes, "areas": [100] * FRAMES, "iscrowd": 0})  # fmt: skip
    video = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": FRAMES,
             "file_names": [f"{t}.jpg" for t in range(FRAMES)]}  # fmt: skip
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2)]
    return {"info": {}, "videos": [video], "categories": categories, "annotations": rows}


def _compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int)])
    runs = np.diff([0, *np.flatnonzero(np.diff(flat)), mask.size]).tolist()
    return {"size": list(mask.shape), "counts": runs}


# Commands -----------------------------------------------------------------------------------------


def _demo(base: Path, source: str, mask: str) -> list[str]:
    return ["run", "--config-file", COPY_FIRST, "--input", str(base / source), "--first-mask",
            str(base / mask), "--output", str(base / "out/o"), "--device", "cpu"]  # fmt: skip


def _train(base: Path) -> list[str]:
    name = f"own_vis:{base}/truth.json:{base}/frames"
    return ["train", "--config-file", CROSSVIS, "--num-gpus", "0", "MODEL.DEVICE", "cpu",
            "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1",
            "SOLVER.IMS_PER_BATCH", "1", "MODEL.FCOS.NUM_CLASSES", "2", "OUTPUT_DIR",
            str(base / "out/t"), "DATALOADER.NUM_WORKERS", "0"]  # fmt: skip


# what is mutated: (file, mutation, command, how often)
Case = tuple[str, Callable[[bytes, np.random.Generator], bytes], Callable[[Path], list[str]], int]
CASES: dict[str, Case] = {
    "demo: frame": ("frames/1.jpg", mutated_bytes, lambda b: _demo(b, "frames", "m.png"), 35),
    "demo: mp4": ("clip.mp4", mutated_bytes, lambda b: _demo(b, "clip.mp4", "m.png"), 30),
    "demo: mkv": ("clip.mkv", mutated_bytes, lambda b: _demo(b, "clip.mkv", "m.png"), 20),
    "demo: mask": ("m.png", mutated_bytes, lambda b: _demo(b, "frames", "m.png"), 25),
    "demo: tif mask": ("m.tif", mutated_bytes, lambda b: _demo(b, "frames", "m.tif"), 15),
    "demo: weights": (
        "weights.pth", mutated_bytes,
        lambda b: ["run", "--config-file", CROSSVIS, "--weights", str(b / "weights.pth"), "--input",
                   str(b / "frames/0.jpg"), "--output", str(b / "out/o"), "--device", "cpu"], 15),
    "check: video json": (
        "truth.json", mutated_json,
        lambda b: ["data", "check", f"own_vis:{b}/truth.json:{b}/frames"], 50),
    "check: stills json": (
        "stills.json", mutated_json,
        lambda b: ["data", "check", f"own_stills:{b}/stills.json:{b}/frames"], 25),
    "check: masks": (
        "vos/Annotations/v/2.png", mutated_bytes, lambda b: ["data", "check", f"own_vos:{b}/vos"],
        20),
    "score: results json": (
        "results.json", mutated_json,
        lambda b: ["SCORE", "ytvis", "--ground-truth", f"{b}/truth.json", "--results",
                   f"{b}/results.json"], 25),
    "score: truth json": (
        "truth.json", mutated_json,
        lambda b: ["SCORE", "ytvis", "--ground-truth", f"{b}/truth.json", "--results",
                   f"{b}/results.json"], 15),
    "score: label maps": (
        "results/v/2.png", mutated_bytes,
        lambda b: ["SCORE", "davis", "--protocol", "semi", "--ground-truth",
                   f"{b}/vos/Annotations", "--results", f"{b}/results"], 15),
    "train: video json": ("truth.json", mutated_json, _train, 10),
}  # fmt: skip


def outcome(argv: list[str], log: Path) -> str:
    """Run a command in a process of its own; see ``forked_commands``."""
    return run_command(argv, log, seconds=SECONDS)


def _files(base: Path) -> set[str]:
    return {str(f.relative_to(base)) for f in base.rglob("*") if not f.is_relative_to(base / "out")}


def run_case(name: str, base: Path, times: int | None = None, seed: int = 0) -> Counter:
    """Run one case; returns how often each outcome came, and fails at the first that may not."""
    file, mutation, command, count = CASES[name]
    good = (base / file).read_bytes()
    before, counts = _files(base), Counter()
    for k in range(count if times is None else times):
        rng = np.random.default_rng([seed, sorted(CASES).index(name), k])
        (base / file).write_bytes(mutation(good, rng))
        shutil.rmtree(base / "out", ignore_errors=True)
        found = outcome(command(base), base.parent / "log.txt")
        counts[found] += 1
        text = (base.parent / "log.txt").read_text(errors="replace")
        where = f"{name}, mutation {k}: {found}\n{text[-3000:]}"
        assert found in ("0", "2", "3"), where
        assert "Traceback" not in text, where
        assert _files(base) == before, where
        if found == "2":
            assert len(text.strip().splitlines()[-1]) < 600, where
    (base / file).write_bytes(good)
    shutil.rmtree(base / "out", ignore_errors=True)
    return counts


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "base"
    good_inputs(folder)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="commands run in forked processes")
def test_good_inputs_pass(base: Path) -> None:
    """What is mutated is good before: otherwise the counts would say nothing."""
    for name in CASES:
        if name.startswith("train"):  # of some seconds: the slow test shows it
            continue
        assert outcome(CASES[name][2](base), base.parent / "log.txt") == "0", name
        shutil.rmtree(base / "out", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="commands run in forked processes")
@pytest.mark.parametrize("name", sorted(CASES))
def test_mutated_inputs(name: str, base: Path, capsys) -> None:
    counts = run_case(name, base)
    with capsys.disabled():
        told = ", ".join(f"{n} x exit {code}" for code, n in sorted(counts.items()))
        print(f"\n{name}: {told}", flush=True)


def test_there_are_three_hundred() -> None:
    assert sum(case[3] for case in CASES.values()) >= 300
