"""``vis data show``: what a training sees, from the command to the picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode

from vis_projects.cli import run_script
from vis_projects.data.clips.frame_samplers import PairSampler, ReferenceAndValidationSampler


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


def test_what_a_sampler_leaves_out_is_counted() -> None:
    """Videos that are too short for a reference and its frames, objects that stay too small."""

    def video(length: int, sides: tuple[int, ...]) -> dict:
        box = [[0, 0, 1, 0, 1, 1, 0, 1]]
        objects = [
            {
                "id": i,
                "category_id": 0,
                "bbox": [0, 0, side, side],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": [[side * x for x in box[0]]],
                "area": side * side,
            }
            for i, side in enumerate(sides, 1)
        ]
        return {
            "video_id": length,
            "name": str(length),
            "height": 60,
            "width": 80,
            "length": length,
            "objects": [{"id": a["id"], "category_id": 0} for a in objects],
            "annotations": [objects] * length,
        }

    videos = [video(6, (30, 4)), video(2, (30,)), video(5, ()), video(4, (20,))]
    sampler = ReferenceAndValidationSampler(videos, reference="first")
    found = {why.split(":")[0]: count for why, count in sampler.left_out().items()}
    assert found == {
        "videos without an object": 1,
        "videos": 1,
        "objects that never cover INPUT.SAMPLER.MIN_PIXELS 100": 1,
    }
    assert len(sampler) == 2
    assert PairSampler(videos).left_out() == {"videos without an object": 1}
    short = [video(1, (30,)), video(3, (30,))]
    assert PairSampler(short).left_out() == {}


def test_unknown_sets_are_one_line(tmp_path: Path, capsys) -> None:
    assert run_script("data", ["show", "nothing_here"], prog="vis data") == 2
    assert capsys.readouterr().err.count("\n") == 1
