"""docs/own_data.md, line by line: from files to an overlay."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from vis_projects.cli import main
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoFileSource, VideoWriter

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/own_data.md").read_text()
SIZE, FRAMES = (96, 160), 5


def commands() -> list[list[str]]:
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
    return [shlex.split(line) for line in fenced.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    images, labels = moving_boxes(SIZE, 2, frames=FRAMES)
    folders = ("frames", "mine/JPEGImages/v", "mine/Annotations/v", "images/v")
    for part in folders:
        Path(part).mkdir(parents=True)
    with VideoWriter(Path("clip.mp4")) as writer:
        for image in images:
            writer.add(image)
    Image.fromarray(labels[0]).save("mask.png")
    for t in range(FRAMES):
        for part in ("frames", "mine/JPEGImages/v", "images/v"):
            cv2.imwrite(f"{part}/{t}.jpg", images[t])
        Image.fromarray(labels[t]).save(f"mine/Annotations/v/{t}.png")
    names = [f"v/{t}.jpg" for t in range(FRAMES)]
    rows = []
    for i in (1, 2):
        masks = [mask_util.encode(np.asfortranarray((m == i).astype(np.uint8))) for m in labels]
        for rle in masks:
            rle["counts"] = rle["counts"].decode()
        rows.append({"id": i, "video_id": 1, "category_id": i, "segmentations": masks})
    video = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": FRAMES, "file_names": names}
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    truth = {"videos": [video], "categories": categories, "annotations": rows}
    for name in ("train.json", "val.json"):
        Path(name).write_text(json.dumps(truth))
    return tmp_path


@pytest.mark.slow
def test_from_files_to_an_overlay(place: Path, capsys) -> None:
    lines = commands()
    assert {line[1] for line in lines} == {"run", "data", "eval", "train"}
    for line in lines:
        assert line[0] == "vis"
        fewer = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
        words = [*line[1:], *(fewer if line[1] == "train" else [])]
        assert main(words) == 0, (" ".join(line), capsys.readouterr().err)
    for name in ("first", "second", "third"):
        assert VideoFileSource(place / f"out/{name}/overlay.mp4").length == FRAMES
    assert (place / "out/mine/model_final.pth").is_file()
    assert "J&F" in (place / "out/vos/scores.json").read_text()
    assert "AP" in (place / "out/scores/scores.json").read_text()
    described = json.loads((place / "out/third/video.json").read_text())
    assert "cell" in json.dumps(described)
