"""Pairs of masks on videos that their detector has not seen: folds, configs, the script."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vis_projects.config import load_config
from vis_projects.data import load_videos
from vis_projects.data.catalog.class_maps import load_categories
from vis_projects.data.catalog.local_split import folds_of, split_folds
from vis_projects.msn.detector import check_data_stages
from vis_projects.msn.selection_pairs import read_pairs
from vis_projects.structures import InputError, encode_masks
from vis_projects.weights import read_weights

ROOT = Path(__file__).parents[2]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moving_squares(folder: Path, *, videos: int, frames: int) -> None:
    """YouTube-VIS 2021 train: one bright square a video; it moves, or is soon hidden in part."""
    rng = np.random.default_rng(0)
    rows, annotations = [], []
    for n in range(1, videos + 1):
        ground = rng.integers(0, 60, (64, 96, 3), np.uint8)
        y, x = rng.integers(4, 20), rng.integers(4, 30)
        step, masks, files = 3 * (n % 3), [], []
        for t in range(frames):
            mask = np.zeros((64, 96), bool)
            mask[y : y + 36, x + step * t : x + step * t + 40] = True
            seen = mask.copy()
            if step == 0 and t > 0:  # partly hidden: here the propagated mask is the better one
                seen[:, x + 26 :] = False
            picture = np.where(seen[..., None], np.uint8([230, 200, 40]), ground)
            files.append(f"{n:03d}ab/{5 * t:05d}.jpg")
            file = folder / "train" / "JPEGImages" / files[-1]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
            masks.append(mask)
        rows.append({"id": n, "file_names": files, "height": 64, "width": 96, "length": frames})
        boxes = [[float(x + step * t), float(y), 40.0, 36.0] for t in range(frames)]
        annotations.append(
            {"id": n, "video_id": n, "category_id": 1, "iscrowd": 0, "bboxes": boxes,
             "segmentations": encode_masks(np.stack(masks)), "areas": [40 * 36] * frames}
        )  # fmt: skip
    data = {"videos": rows, "annotations": annotations, "categories": load_categories("ytvis_2021")}
    (folder / "train.json").write_text(json.dumps(data))


@pytest.fixture
def ytvis(tmp_path, monkeypatch) -> Path:
    """The root of the data sets, with seven videos of two frames."""
    moving_squares(tmp_path / "ytvis_2021", videos=7, frames=2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_folds_are_disjoint_and_whole():
    names = [f"video{i}" for i in range(101)]
    one, two = folds_of(names, 2)
    assert len(one) == 50 and one | two == set(names) and not one & two
    assert folds_of(reversed(names), 2) == [one, two]  # whatever the order in the file
    fewer, _ = folds_of(names[:-1], 2)
    assert len(fewer ^ one) <= 2  # a missing video moves one other at most
    for count in (1, 102):
        with pytest.raises(InputError, match="folds"):
            folds_of(names, count)


def test_the_command_and_the_sets_agree(ytvis, capsys):
    from vis_projects.cli import main

    assert main(["data", "split", "ytvis_2021", "--folds", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    ids = [{v["video_id"] for v in load_videos(f"ytvis_2021_local_fold{k}")} for k in (0, 1)]
    assert ids[0] | ids[1] == set(range(1, 8)) and not ids[0] & ids[1]
    assert {len(i) for i in ids} == {3, 4}
    with pytest.raises(InputError, match="cannot be cut"):
        split_folds("davis_2017", 2)


@pytest.mark.parametrize("fold", [0, 1])
def test_detectors_of_the_folds(fold):
    """The main detector in all but the videos; Table 3's check takes a fold for its set."""
    main = load_config("configs/msn/detector_swinB_ytvis2021.yaml")
    cfg = load_config(f"configs/msn/detector_fold{fold}_swinB_ytvis2021.yaml")
    check_data_stages(cfg)
    assert f"ytvis_2021_local_fold{fold}" in cfg.DATASETS.TRAIN
    cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = main.DATASETS.TRAIN, main.OUTPUT_DIR
    assert cfg == main
    cfg.DATASETS.TRAIN = ("coco_2017_train", "ytvis_2019_local_train", "openimages_stills_train")
    with pytest.raises(InputError, match="DATA_STAGES"):
        check_data_stages(cfg)
    cfg.DATASETS.TRAIN = ("coco_2017_train", "ytvis_2021_local_train", "openimages_stills_train")
    check_data_stages(cfg)


def test_files_share_the_limits(tmp_path, monkeypatch):
    """80k and 8k are the pairs of both files together."""
    tool = load_tool("make_selection_pairs")
    rng = np.random.default_rng(0)

    def pairs(cfg, *, half, videos):
        name = cfg.DATASETS.TRAIN[0]
        gaps = rng.uniform(0.2, 0.5, (22, 30))
        return [
            [{"dataset": name, "video": v, "frame": 0, "a": {}, "b": {}, "iou_a": 0.5 + g * s,
              "iou_b": 0.5} for g, s in zip(row, [1, -1] * 15)]
            for v, row in enumerate(gaps)
        ]  # fmt: skip

    monkeypatch.setattr(tool, "make_pairs", pairs)
    files = [tmp_path / f"pairs_{k}.json.gz" for k in (0, 1)]
    for k, file in enumerate(files):
        tool.main(
            [
                *("--config-file", "configs/msn/swinB_ytvis2021.yaml", "--files", "2"),
                *("--train", "400", "--val", "40", "--out", str(file)),
                *("DATASETS.TRAIN", f"('ytvis_2021_local_fold{k}',)"),
            ]
        )
    train, val = read_pairs(files, "train"), read_pairs(files, "val")
    assert len(train) == 400 and len(val) == 40
    assert {p["dataset"] for p in train} == {"ytvis_2021_local_fold0", "ytvis_2021_local_fold1"}


def test_the_script_makes_pairs_where_the_detector_has_not_been(tmp_path):
    """Every command of configs/msn/two_folds.sh, recorded by a stand-in for the interpreter."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\nwhile [ $# -gt 0 ]; do\n'
        '[ "$1" = OUTPUT_DIR ] && mkdir -p "$2" && : > "$2/model_final.pth"\n'
        '[ "$1" = --out ] && : > "$2"; shift; done\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "cfbi.pth").write_bytes(b"")
    env = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    command = ["sh", "configs/msn/two_folds.sh"]
    missing = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert missing.returncode == 2 and "PROPAGATOR" in missing.stdout
    env["PROPAGATOR"] = str(tmp_path / "cfbi.pth")
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    split, *steps, selection = log.read_text().splitlines()
    assert split.split()[1:] == ["split", "ytvis_2021", "--folds", "2"]
    for fold in (0, 1):
        train, join, make = steps[3 * fold : 3 * fold + 3]
        assert f"detector_fold{fold}_swinB_ytvis2021.yaml" in train
        assert f"detector_fold{fold}/model_final.pth" in join and f"selector_{fold}.pth" in join
        assert f"selector_{fold}.pth" in make and "--files 2" in make
        assert f"ytvis_2021_local_fold{1 - fold}" in make
        assert f"pairs_{1 - fold}.json.gz" in make
    assert "pairs_0.json.gz" in selection and "pairs_1.json.gz" in selection
    log.unlink()
    subprocess.run(command, cwd=ROOT, env=env, check=True)  # what is there is not made again
    assert len(log.read_text().splitlines()) == 2
    for word in selection.split():
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file()


SMALL_DETECTOR = """
_BASE_: {root}/configs/msn/quickstart_detector.yaml
MODEL:
  ROI_HEADS:
    NUM_CLASSES: 40
DATASETS:
  TRAIN: ("ytvis_2021_local_fold{fold}",)
SOLVER:
  MAX_ITER: 120
  WARMUP_ITERS: 10
"""
SMALL_PIPELINE = """
_BASE_: {root}/configs/msn/quickstart_synthetic.yaml
MODEL:
  PROPAGATOR:
    NAME: CopyFirstPropagator
  MSN:
    SCORE_THRESH: 0.1
  ROI_HEADS:
    NUM_CLASSES: 40
    SCORE_THRESH_TEST: 0.05
"""
SMALL_SELECTION = """
_BASE_: {root}/configs/msn/quickstart_selection.yaml
SOLVER:
  MAX_ITER: 4
  IMS_PER_BATCH: 4
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_procedure_on_a_small_set(tmp_path):
    """Raw data, two_folds.sh, join_weights, evaluation: the commands of docs/msn.md."""
    for name, text in (
        *((f"detector_fold{k}", SMALL_DETECTOR.format(root=ROOT, fold=k)) for k in (0, 1)),
        ("pipeline", SMALL_PIPELINE.format(root=ROOT)),
        ("selection", SMALL_SELECTION.format(root=ROOT)),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    torch.save({"model": {"nothing": torch.zeros(1)}}, tmp_path / "propagator.pth")
    out = tmp_path / "out"
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable,
        "DETECTRON2_DATASETS": str(tmp_path / "data"), "OUT": str(out), "GPUS": "0",
        "PROPAGATOR": str(tmp_path / "propagator.pth"),
        "DETECTOR_CONFIG": str(tmp_path / "detector_fold%s.yaml"),
        "PIPELINE": str(tmp_path / "pipeline.yaml"),
        "SELECTION_CONFIG": str(tmp_path / "selection.yaml"),
    }  # fmt: skip

    def run(*command: object) -> None:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    raw = tmp_path / "data" / "ytvis_2021"
    moving_squares(raw, videos=24, frames=4)
    run("sh", "configs/msn/two_folds.sh")
    folds = [
        {v["id"] for v in json.loads(file.read_text())["videos"]}
        for file in (raw / "local_fold0.json", raw / "local_fold1.json")
    ]
    assert not folds[0] & folds[1] and len(folds[0] | folds[1]) == 24
    for k, fold in enumerate(folds):  # file k holds pairs of fold k alone
        pairs = read_pairs([out / f"pairs_{k}.json.gz"], "train")
        assert {p["dataset"] for p in pairs} == {f"ytvis_2021_local_fold{k}"}
        assert {p["video"] for p in pairs} <= fold
    run(sys.executable, "-m", "vis_projects.msn.join_weights",
        "--detector", out / "detector_fold0/model_final.pth",
        "--propagator", tmp_path / "propagator.pth",
        "--selector", out / "selection/model_final.pth", out / "msn.pth")  # fmt: skip
    joined = read_weights(str(out / "msn.pth")).state
    assert {k.split(".")[0] for k in joined} == {"detector", "propagator", "selector"}
    run(sys.executable, "train_net.py", "--num-gpus", "0", "--eval-only",
        "--config-file", tmp_path / "pipeline.yaml", "MODEL.WEIGHTS", out / "msn.pth",
        "DATASETS.TEST", "('ytvis_2021_local_fold1',)", "OUTPUT_DIR", out / "eval")  # fmt: skip
    results = out / "eval" / "inference" / "ytvis_2021_local_fold1"
    assert {r["video_id"] for r in json.loads((results / "results.json").read_text())} <= folds[1]
    assert (results / "results.zip").is_file()
