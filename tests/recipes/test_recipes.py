"""Every real recipe from files on disk to files on disk, shrunk in size and number only.

Small copies of the real formats (``real_formats``) train two iterations with every distinct
training configuration and are evaluated with every real config, from start weights that the test
makes. The whole takes long (--slow); a sample runs always.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_formats
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from test_configs import REAL, loaded

from vis_projects.config import load_config
from vis_projects.data import load_videos
from vis_projects.engine.inference import results_folder
from vis_projects.engine.job import Job, run_job
from vis_projects.structures import encode_masks
from vis_projects.weights.own_weights import own_weights_later

SAMPLE = {
    "train": ("crossvis/R50_1x_ytvis2019.yaml", "srnet/R50_ytvis2019.yaml"),
    "test": ("seq_mask_rcnn/R50_ytvis2019.yaml", "frtm/R18_fast_davis2017.yaml"),
}


def shrunk(cfg: CfgNode, *, training: bool) -> dict[str, Any]:
    """Overrides in size and number; all else stays the recipe's."""
    long = 2 * 64
    out: dict[str, Any] = {
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.EPOCHS": 0,
        "SOLVER.EPOCH_STEPS": "()",
        "SOLVER.STEPS": "()",
        "TEST.EVAL_PERIOD": 0,
        "INPUT.MAX_SIZE_TRAIN": long,
        "INPUT.MAX_SIZE_TEST": long,
        "TEST.DETECTIONS_PER_IMAGE": 3,
        "MODEL.FCOS.POST_NMS_TOPK_TEST": 4,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "MODEL.MSN.MAX_OBJECTS": 2,
        "MODEL.FRTM.FINE_TUNING.ITERATIONS": 2,
    }
    if min(cfg.INPUT.MIN_SIZE_TRAIN) > 0:
        sizes = "(64, 80)" if len(cfg.INPUT.MIN_SIZE_TRAIN) > 1 else "(64,)"
        out["INPUT.MIN_SIZE_TRAIN"] = sizes
    if cfg.INPUT.MIN_SIZE_TEST:
        out["INPUT.MIN_SIZE_TEST"] = 64
    if max(cfg.INPUT.AUGMENTATIONS.PAD_TO) > 0:
        out["INPUT.AUGMENTATIONS.PAD_TO"] = "(64, 128)"
    if max(cfg.INPUT.AUGMENTATIONS.CROP.SIZE) > 0:
        square = len(set(cfg.INPUT.AUGMENTATIONS.CROP.SIZE)) == 1
        out["INPUT.AUGMENTATIONS.CROP.SIZE"] = "(65, 65)" if square else "(64, 128)"
    meta = cfg.MODEL.META_ARCHITECTURE
    if meta == "FRTM":
        out["MODEL.FRTM.TRAINING.SIZE"] = "(64, 96)"
    if meta == "CropClassifier":
        out["MODEL.MSN.CLASSIFIER.MAX_CROPS"] = 2
    if meta in ("MSNDetector", "MSN"):
        # Synchronised batch norms run on GPUs alone.
        out["MODEL.ROI_BOX_HEAD.NORM"] = (
            "BN"
            if cfg.MODEL.ROI_BOX_HEAD.NORM == "SyncBN"
            else (cfg.MODEL.ROI_BOX_HEAD.NORM or "''")
        )
    for key in ("TRAIN", "TEST"):
        out[f"DATASETS.{key}"] = str(tuple(small_set(n) for n in cfg.DATASETS[key]))
    if training:
        out["DATASETS.TEST"] = "()"
    return out


def small_set(name: str) -> str:
    """The name of a set that is rendered when it is read, with smaller options."""
    for option, value in (("videos", "2"), ("length", "8"), ("size", "96x128")):
        name = re.sub(f":{option}=[0-9x]+", f":{option}={value}", name)
    return name


# What is read at test alone.
TEST_OPTIONS = (
    *("MODEL.SRNET.TEST", "MODEL.CROSSVIS.TRACKER", "MODEL.CFBI.SCALES", "MODEL.CFBI.FLIP"),
    *(
        f"MODEL.SEQ_MASK_RCNN.{key}"
        for key in (
            *("NUM_KEY_FRAMES", "KEY_FRAME_RULE", "PROPOSAL_IOU_THRESH", "REDO_KEY_FRAME"),
            *("SCORE_MEAN", "MEM_NUM", "REDUCE", "RESULT_SCORE_THRESH"),
        )
    ),
)


def trained_part(cfg: CfgNode) -> CfgNode:
    """A config without what is read at test alone."""
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST = "", "", ()
    for path in TEST_OPTIONS:
        *sections, last = path.split(".")
        node = cfg
        for section in sections:
            node = node[section]
        node[last] = None
    return cfg


def training_key(name: str) -> str:
    """What a training depends on: rows that differ at test alone train the same."""
    cfg = trained_part(loaded(name))
    for key in ("MAX_ITER", "STEPS", "EPOCHS", "EPOCH_STEPS"):  # these are overridden
        cfg.SOLVER[key] = None
    return str(cfg)


def trains(name: str) -> bool:
    return bool(loaded(name).DATASETS.TRAIN or loaded(name).MODEL.MSN.SELECTOR.PAIRS)


def distinct_trainings() -> list[str]:
    """One config of each training: that whose model the others of the group test, if there is."""
    groups: dict[str, list[str]] = {}
    for name in filter(trains, REAL):
        groups.setdefault(training_key(name), []).append(name)
    found = []
    for group in groups.values():
        made = {f"{loaded(n).OUTPUT_DIR}/model_final.pth" for n in group}
        found.append(next((n for n in group if loaded(n).MODEL.WEIGHTS not in made), group[0]))
    return found


def test_no_config_is_left_out():
    """Every real config trains, or trains as one does that is here; or is evaluated; or both."""
    keys = {training_key(n) for n in distinct_trainings()}
    evaluated = {n for n in REAL if loaded(n).DATASETS.TEST}
    assert all(training_key(n) in keys for n in REAL if trains(n))
    assert len(keys) == len(distinct_trainings()) >= 80
    assert len(evaluated) >= 140
    assert [n for n in REAL if not trains(n) and n not in evaluated] == []


def marked(names: list[str], kind: str) -> list[Any]:
    return [
        pytest.param(
            n, id=n.removesuffix(".yaml"), marks=[] if n in SAMPLE[kind] else pytest.mark.slow
        )
        for n in names
    ]


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> Iterator[Callable[[str, list[str]], str]]:
    """Gives a file with a value for every tensor of a config's model, "" if there are none.

    Files of the last few networks are kept: rows of one table share theirs.
    """
    kept: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("starts")

    def start(name: str, opts: list[str]) -> str:
        cfg = load_config(name, opts)
        part = trained_part(cfg)
        key = f"{part.MODEL}{part.DATASETS.TRAIN}"
        if key not in kept:
            torch.manual_seed(0)
            with own_weights_later():
                model = build_model(cfg)
            if not getattr(model, "state_dict", dict)():
                return ""
            if len(kept) == 3:
                kept.pop(next(iter(kept))).unlink()
            file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.pth"
            torch.save({"model": model.state_dict()}, file)
            kept[key] = file
        return str(kept[key])

    yield start
    shutil.rmtree(folder, ignore_errors=True)


def pairs_files(folder: Path) -> str:
    """Pairs of masks on YouTube-VIS 2021, as tools/make_selection_pairs.py writes them."""
    files = []
    for k in (0, 1):
        dataset = f"ytvis_2021_local_fold{k}"
        a, b = real_formats.masks(0)[1], np.roll(real_formats.masks(0)[1], 3, 1)
        pair = {
            "dataset": dataset,
            "video": load_videos(dataset)[0]["video_id"],
            "frame": 0,
            "a": encode_masks(a[None])[0],
            "b": encode_masks(b[None])[0],
            "iou_a": 0.9,
            "iou_b": 0.7,
        }
        files.append(folder / f"pairs_{k}.json.gz")
        with gzip.open(files[-1], "wt") as stream:
            json.dump(
                {part: [pair] * 4 for part in ("train", "train_all", "val", "val_all")}, stream
            )
    return str(tuple(map(str, files)))


@pytest.fixture
def place(data_root, tmp_path, monkeypatch):
    """An empty working folder (some configs write to output/) and the data sets."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data_root))
    for split in ("train", "val"):  # Detectron2 takes COCO's place from the root at its import
        about = vars(MetadataCatalog.get(f"coco_2017_{split}"))
        file = data_root / "coco" / "annotations" / f"instances_{split}2017.json"
        monkeypatch.setitem(about, "json_file", str(file))
        monkeypatch.setitem(about, "image_root", str(data_root / "coco" / f"{split}2017"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)  # half a gigabyte of checkpoints each


def job(name: str, place: Path, starts: Callable, *, eval_only: bool) -> None:
    opts: list[str] = []
    for key, value in shrunk(loaded(name), training=not eval_only).items():
        opts += [key, str(value)]
    if loaded(name).MODEL.MSN.SELECTOR.PAIRS:
        opts += ["MODEL.MSN.SELECTOR.PAIRS", pairs_files(place)]
    opts += ["MODEL.WEIGHTS", starts(name, opts), "OUTPUT_DIR", str(place / "out")]
    run_job(Job(name, tuple(opts), eval_only=eval_only, num_gpus=0))


@pytest.mark.parametrize("name", marked(distinct_trainings(), "train"))
def test_train_two_iterations(name, place, starts):
    job(name, place, starts, eval_only=False)
    assert (place / "out" / "model_final.pth").is_file()
    lines = (place / "out" / "metrics.json").read_text().splitlines()
    losses = json.loads(lines[-1])
    assert np.isfinite(losses["total_loss"]) and losses["iteration"] == 1


@pytest.mark.parametrize("name", marked([n for n in REAL if loaded(n).DATASETS.TEST], "test"))
def test_evaluate(name, place, starts):
    job(name, place, starts, eval_only=True)
    for dataset in map(small_set, loaded(name).DATASETS.TEST):
        results = results_folder(place / "out", dataset)
        assert any(results.rglob("*.json")) or any(results.rglob("*.png"))
