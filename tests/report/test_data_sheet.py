"""``vis data show``: what a training sees, from the command to the picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vis_projects.cli import run_script


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("synthetic_train:videos=4:length=4", "configs/quickstart.yaml"),
        ("synthetic_vos_train:videos=3:length=6", "configs/cfbi/quickstart_synthetic.yaml"),
    ],
)
def test_a_sheet_of_training_clips(tmp_path: Path, name: str, config: str) -> None:
    argv = ["show", name, "--config-file", config, "--clips", "2", "--output", str(tmp_path / "s")]
    assert run_script("data", argv, prog="vis data") == 0
    sheet = cv2.imread(str(tmp_path / "s" / "sheet.png"))
    assert sheet.shape[0] == 2 * 266 and sheet.std() > 10
    text = (tmp_path / "s" / "sheet.html").read_text()
    assert "Histograms" in text and "data:image/jpeg" in text and len(text) < 10e6


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """Own stills: one without an object, one crowd."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for k in range(4):
        picture = np.full((60, 80, 3), 40 * k, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), picture)
        images.append({"id": k + 1, "file_name": f"{k}.png", "height": 60, "width": 80})
        if k:
            box = [10, 10, 30, 30]
            polygon = [[10, 10, 40, 10, 40, 40, 10, 40]]
            rle = {"size": [60, 80], "counts": [600, 60, 4140]}
            annotations.append(
                {
                    "id": k,
                    "image_id": k + 1,
                    "category_id": 1,
                    "bbox": box,
                    "area": 900,
                    "iscrowd": int(k == 3),
                    "segmentation": rle if k == 3 else polygon,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "b"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    name = f"own_stills:{tmp_path / 'a.json'}:{tmp_path / 'images'}"
    argv = ["show", name, "--config-file", "configs/crossvis/CondInst_quickstart_synthetic.yaml"]
    argv += ["--clips", "2", "--output", str(tmp_path / "s")]
    assert run_script("data", argv, prog="vis data") == 0
    assert "frames without an object" in (tmp_path / "s" / "sheet.html").read_text()


def test_unknown_sets_are_one_line(tmp_path: Path, capsys) -> None:
    assert run_script("data", ["show", "nothing_here"], prog="vis data") == 2
    assert capsys.readouterr().err.count("\n") == 1
