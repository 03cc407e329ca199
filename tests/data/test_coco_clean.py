"""``vis data convert coco_clean``: from a COCO on disk to the excerpt."""

from __future__ import annotations

import json

import pytest

from vis_projects.cli import main
from vis_projects.data.formats.coco_clean import coco_clean_images


@pytest.fixture
def coco(tmp_path):
    """A COCO whose images are a few bytes each, one of them not wanted."""
    root = tmp_path / "coco"
    content = {}
    for row in [*coco_clean_images(), {"id": 1, "split": "train2017"}]:
        part = content.setdefault(
            row["split"], {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        )
        part["images"].append({"id": row["id"], "file_name": f"{row['id']:012d}.jpg"})
        part["annotations"].append({"id": row["id"], "image_id": row["id"], "category_id": 1})
        (root / row["split"]).mkdir(parents=True, exist_ok=True)
        (root / row["split"] / f"{row['id']:012d}.jpg").write_bytes(str(row["id"]).encode())
    (root / "annotations").mkdir()
    for split, part in content.items():
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(part))
    return root


def test_the_excerpt_is_copied_with_its_attribution(coco, capsys):
    assert main(["data", "convert", "coco_clean", "--root", str(coco)]) == 0
    out = coco.parent / "coco_clean"
    assert f"{out}: 58 images, 58 instances" in capsys.readouterr().out
    got = json.loads((out / "instances.json").read_text())
    assert {i["id"] for i in got["images"]} == {r["id"] for r in coco_clean_images()}
    assert len(list((out / "images").iterdir())) == 58
    readme = (out / "README.md").read_text()
    assert all(r["source"] in readme for r in coco_clean_images()) and "CC BY 4.0" in readme
    assert main(["data", "convert", "coco_clean", "--root", str(coco)]) == 2


def test_what_is_missing_is_named(coco, capsys):
    some = coco_clean_images()[3]
    (coco / some["split"] / f"{some['id']:012d}.jpg").unlink()
    assert main(["data", "convert", "coco_clean", "--root", str(coco)]) == 2
    assert f"{some['id']:012d}.jpg: not there (1 of 58 are missing)" in capsys.readouterr().err
    assert not (coco.parent / "coco_clean").exists()
    (coco / "annotations/instances_train2017.json").unlink()
    assert main(["data", "convert", "coco_clean", "--root", str(coco)]) == 2
    assert "instances_train2017.json: no readable COCO annotations" in capsys.readouterr().err
