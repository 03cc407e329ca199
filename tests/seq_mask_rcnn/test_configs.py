"""Rows that follow from others: category-aware reduction, the authors' files, their main stage."""

from __future__ import annotations

import pytest
from detectron2.config import CfgNode

from vis_projects.config import config_root, load_config

FOLDER = "configs/seq_mask_rcnn"
ROWS = [
    *(f"{b}_ytvis{y}" for b, y in (("R50", 2019), ("R101", 2019), ("X101", 2019))),
    *("R50_ytvis2021", "X101_ytvis2021"),
]
DAVIS = ["R101_davis2019", "X101_davis2019"]


def difference(a: CfgNode, b: CfgNode, prefix: str = "") -> set[str]:
    """Names of the options in which two configs differ."""
    found: set[str] = set()
    for key, value in a.items():
        if isinstance(value, CfgNode):
            found |= difference(value, b[key], f"{prefix}{key}.")
        elif value != b[key]:
            found.add(prefix + key)
    return found


NODE = "MODEL.SEQ_MASK_RCNN."
CATEGORY_AWARE = {"REDUCE.MODE", "REDUCE.IOU_THRESH", "RESULT_SCORE_THRESH"}
BOXES = {
    *("MODEL.ANCHOR_GENERATOR.NAME", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", NODE + "INCLUSIVE_BOXES"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
}
PLACES = {"MODEL.WEIGHTS", "OUTPUT_DIR"}


@pytest.mark.parametrize("row", ROWS)
def test_category_aware_rows_differ_in_the_reduction_alone(row):
    plain = load_config(f"{FOLDER}/{row}.yaml")
    ours = load_config(f"{FOLDER}/ablations/category_aware_{row}.yaml")
    assert difference(plain, ours) == {NODE + k for k in CATEGORY_AWARE} | PLACES
    assert ours.MODEL.SEQ_MASK_RCNN.REDUCE.MODE == "category_aware"
    assert f"{plain.OUTPUT_DIR}/model_final.pth" == ours.MODEL.WEIGHTS
    official = load_config(f"{FOLDER}/official_{row}.yaml")
    theirs = load_config(f"{FOLDER}/official_category_aware_{row}.yaml")
    assert difference(official, theirs) == {NODE + k for k in CATEGORY_AWARE} | {"OUTPUT_DIR"}
    assert theirs.MODEL.WEIGHTS == official.MODEL.WEIGHTS  # one file of theirs, two rows


@pytest.mark.parametrize("row", [*ROWS, *DAVIS])
def test_the_authors_files_keep_their_boxes_also_from_the_main_stage_on(row):
    plain = load_config(f"{FOLDER}/{row}.yaml")
    official = load_config(f"{FOLDER}/official_{row}.yaml")
    main = load_config(f"{FOLDER}/official_from_main_{row}.yaml")
    assert difference(plain, official) == BOXES | PLACES
    assert difference(official, main) == PLACES
    assert "official_main" in main.MODEL.WEIGHTS and main.DATASETS.TRAIN == plain.DATASETS.TRAIN


def test_no_row_is_missing():
    names = {f.stem for f in (config_root() / "seq_mask_rcnn").glob("official_*.yaml")}
    assert names == {
        *(f"official_{row}" for row in [*ROWS, *DAVIS]),
        *(f"official_from_main_{row}" for row in [*ROWS, *DAVIS]),
        *(f"official_category_aware_{row}" for row in ROWS),
    }
