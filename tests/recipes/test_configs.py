"""Every config of a paper's row says where it starts and on what data, and is in the docs."""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from vis_projects.config import (
    config_root,
    find_config,
    load_config,
    read_config_file,
    shipped_configs,
)
from vis_projects.data.catalog.class_maps import class_map_names
from vis_projects.weights.own_weights import own_weights_later
from vis_projects.weights.verdict import absent_tensors, frozen_tensors
from vis_projects.weights.zoo import zoo_entries

DOCS = Path(__file__).parents[2] / "docs"
ROOT = config_root()
ALL = sorted(str(f.relative_to(ROOT)) for f in shipped_configs() if not f.name.startswith("Base"))
REAL = [n for n in ALL if "quickstart" not in n and "synthetic" not in n]
# Trained from random weights: nothing of it is frozen.
FROM_NOTHING = ("MaskSelectionNetwork",)


@cache
def loaded(name: str):
    return load_config(name, ["MODEL.DEVICE", "cpu"])  # some are for a GPU


@pytest.fixture(scope="module")
def makers() -> dict[str, str]:
    """The config that leaves a model in each folder."""
    return {loaded(n).OUTPUT_DIR: n for n in ALL if loaded(n).DATASETS.TRAIN}


def test_there_are_as_many_as_the_papers_ask_for():
    assert len(REAL) >= 134


def test_no_two_configs_write_into_one_folder():
    folders = [loaded(n).OUTPUT_DIR for n in REAL]
    assert len(set(folders)) == len(folders)


def words(name: str) -> str:
    """A config file and those it is based on, as text."""
    file = find_config(name)
    text = file.read_text()
    base = re.search(r"^_BASE_: (.+)$", text, re.M)
    return text + (words(str((file.parent / base[1]).resolve())) if base else "")


@pytest.mark.parametrize("name", REAL)
def test_the_start_is_there_or_is_made_by_a_config(name, makers):
    cfg = loaded(name)
    start = cfg.MODEL.WEIGHTS
    if not start:  # see the slow test below for what is frozen
        detectron2 = cfg.MODEL.BACKBONE.NAME.endswith("resnet_fpn_backbone")
        own = cfg.MODEL.META_ARCHITECTURE in ("FRTM", "FeatureMatch", "CopyFirst", "CropClassifier")
        assert (
            own
            or cfg.MODEL.TIMM.PRETRAINED
            or not detectron2
            or (cfg.MODEL.META_ARCHITECTURE in FROM_NOTHING)
        )
    elif start.startswith("zoo://"):
        assert start.removeprefix("zoo://") in zoo_entries()
    elif start.startswith("detectron2://"):
        assert start in {entry.url for entry in zoo_entries().values()}
    elif start.endswith(("/model_final.pth", "/model_ema.pth")):
        folder, file = start.rsplit("/", 1)
        assert folder in makers
        assert file == "model_final.pth" or loaded(makers[folder]).MODEL_EMA.ENABLED
    else:  # made by hand: the file says of what, and by which command
        text = " ".join(words(name).replace("#", " ").split())
        assert Path(start).name in text or f"output/msn/{Path(start).name}" in text
        assert re.search(r"python (tools/|-m )|README of github", text), start


@pytest.mark.parametrize("name", REAL)
def test_it_says_its_data(name):
    cfg = loaded(name)
    sets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert sets or cfg.MODEL.MSN.SELECTOR.PAIRS
    known = set(DatasetCatalog.list())
    for entry in sets:
        assert entry in known or ":" in entry or entry.startswith(("synthetic", "dead_leaves"))
    assert set(cfg.DATASETS.CLASS_MAPS) <= {"", *class_map_names()}
    for key in ("CLASS_MAPS", "WEIGHTS", "MAX_GAPS"):
        assert len(getattr(cfg.DATASETS, key)) in (0, len(cfg.DATASETS.TRAIN))


@pytest.mark.parametrize("name", ALL)
def test_first_line_says_what_it_is(name):
    first = find_config(name).read_text().splitlines()[0]
    assert first.startswith("# ") and len(first) > 10
    read_config_file(find_config(name))


@pytest.mark.parametrize("system", ["cfbi", "crossvis", "frtm", "msn", "seq_mask_rcnn", "srnet"])
def test_a_table_names_every_config(system):
    """Row of the paper, config, command, what must lie where."""
    lines = (DOCS / f"{system}.md").read_text().splitlines()
    text = "\n".join(line for line in lines if line.startswith("|"))
    patterns = set()
    for word in re.findall(r"`([^`\s]+)`", text):
        parts = re.split(r"\{([^}]*)\}", word)
        choices = [p.split(",") if k % 2 else [p] for k, p in enumerate(parts)]
        patterns |= {"".join(c) for c in itertools.product(*choices)}
    mine = [
        n.removeprefix(f"{system}/").removesuffix(".yaml") for n in REAL if n.startswith(system)
    ]
    missing = [n for n in mine if not any(fnmatch(n, p) for p in patterns)]
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_it_builds_and_nothing_frozen_is_left_random(name):
    # timm's networks read numbers while they are built, which meta tensors have not.
    small = "timm" in loaded(name).MODEL.BACKBONE.NAME or "lite0" in name
    device = "cpu" if small else "meta"
    cfg = load_config(name, ["MODEL.DEVICE", device])
    with torch.device(device), own_weights_later():
        model = build_model(cfg)
    if cfg.MODEL.WEIGHTS or not hasattr(model, "parameters"):
        return
    own = {
        f"{prefix}.{n}" if prefix else n
        for prefix, part in model.named_modules()
        if hasattr(part, "_fill_own_weights")
        for n, _ in itertools.chain(part.named_parameters(), part.named_buffers())
    }
    assert not (frozen_tensors(model) & set(absent_tensors(model))) - own
