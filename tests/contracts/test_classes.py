"""Own data of any number of classes: counted, trained, scored, named; a wrong number stops."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as mask_util
from systems import CASES, SystemCase

from vis_projects.cli import run_script
from vis_projects.video import OverlayPainter, VideoPredictor, open_source
from vis_projects.weights import config_of_checkpoint

SIZE = (64, 96)
BY_NAME = {c.name: c for c in CASES}
QUICK = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0",
         "DATALOADER.NUM_WORKERS", "0", "TEST.OVERLAY_VIDEOS", "0")  # fmt: skip
# system: config, key, options
SYSTEMS = {
    "crossvis": (BY_NAME["crossvis"].config, "MODEL.FCOS.NUM_CLASSES", BY_NAME["crossvis"].opts),
    "condinst": (
        "configs/crossvis/CondInst_quickstart_synthetic.yaml", "MODEL.FCOS.NUM_CLASSES",
        ("MODEL.FCOS.INFERENCE_TH_TEST", "0.001"),
    ),
    "srnet": (BY_NAME["srnet"].config, "MODEL.SRNET.NUM_CLASSES", BY_NAME["srnet"].opts),
    "seq_mask_rcnn": (
        BY_NAME["seq_mask_rcnn"].config, "MODEL.ROI_HEADS.NUM_CLASSES",
        BY_NAME["seq_mask_rcnn"].opts,
    ),
    "msn_detector": (
        "configs/msn/quickstart_detector.yaml", "MODEL.ROI_HEADS.NUM_CLASSES",
        ("MODEL.FPN.OUT_CHANNELS", "16", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    ),
}  # fmt: skip
OF_STILLS = ("condinst", "msn_detector")


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch) -> None:
    """Handlers of an earlier call in this process write to a stream that is closed by now."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def names_of(count: int) -> list[str]:
    return [f"kind {k}" for k in range(count)]


def own_data(root: Path, count: int) -> dict[str, str]:
    """Two videos with two squares each, as own_vis and as own_stills; ids of classes: 10, 20 ..."""
    rng = np.random.default_rng(count)
    categories = [{"id": 10 * (k + 1), "name": n} for k, n in enumerate(names_of(count))]
    videos, tracks, images, objects = [], [], [], []
    for v in (1, 2):
        files = [f"v{v}/{t:05d}.png" for t in range(3)]
        (root / f"v{v}").mkdir(parents=True)
        boxes = [(8 + 4 * v, 10, 24, 24), (56, 24, 28, 28)]
        for t, file in enumerate(files):
            image = rng.integers(0, 60, (*SIZE, 3), np.uint8)
            for k, (x, y, w, h) in enumerate(boxes):
                image[y : y + h, x + t : x + t + w] += 80 + 60 * k
            cv2.imwrite(str(root / file), image)
            images.append({"id": len(images) + 1, "file_name": file, "height": SIZE[0],
                           "width": SIZE[1]})  # fmt: skip
        videos.append({"id": v, "file_names": files, "length": 3, "height": SIZE[0],
                       "width": SIZE[1]})  # fmt: skip
        for k, (x, y, w, h) in enumerate(boxes):
            category = 10 * ((v + k) % count + 1)
            rles = []
            for t in range(3):
                mask = np.zeros(SIZE, np.uint8, order="F")
                mask[y : y + h, x + t : x + t + w] = 1
                rle = mask_util.encode(mask)
                rles.append({"size": list(SIZE), "counts": rle["counts"].decode()})
                objects.append({"id": len(objects) + 1, "image_id": 3 * (v - 1) + t + 1,
                                "category_id": category, "iscrowd": 0, "area": w * h,
                                "bbox": [x + t, y, w, h], "segmentation": rles[-1]})  # fmt: skip
            tracks.append({"id": len(tracks) + 1, "video_id": v, "category_id": category,
                           "iscrowd": 0, "areas": [w * h] * 3, "segmentations": rles,
                           "bboxes": [[x + t, y, w, h] for t in range(3)]})  # fmt: skip
    (root / "vis.json").write_text(
        json.dumps({"videos": videos, "annotations": tracks, "categories": categories})
    )
    (root / "stills.json").write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories})
    )
    return {
        "vis": f"own_vis:{root}/vis.json:{root}",
        "stills": f"own_stills:{root}/stills.json:{root}",
    }


def command(system: str, name: str, out: Path, *more: str) -> list[str]:
    config, _, opts = SYSTEMS[system]
    return [
        *("--config-file", config, "--num-gpus", "0", *more, *opts, *QUICK),
        *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"),
        *("OUTPUT_DIR", str(out)),
    ]


def cases() -> list:
    """Every system with every number of classes; all but one of them are slow."""
    return [
        pytest.param(s, k, marks=[] if (s, k) == ("srnet", 3) else pytest.mark.slow, id=f"{s}-{k}")
        for s in SYSTEMS
        for k in (1, 3, 60)
    ]


@pytest.mark.parametrize(("system", "count"), cases())
def test_classes_are_counted_trained_scored_and_named(system, count, tmp_path, capfd) -> None:
    key = SYSTEMS[system][1]
    name = own_data(tmp_path / "data", count)["stills" if system in OF_STILLS else "vis"]
    out = tmp_path / "out"
    argv = command(system, name, out)
    assert run_script("train", [*argv, key, "0"], prog="train_net.py") == 0, capfd.readouterr().err
    assert (out / "scores.json").is_file()  # evaluated at its end
    assert run_script(
        "train", [*command(system, name, out, "--eval-only", "--resume"), key, "0"], prog="x"
    ) == 0  # fmt: skip
    card = torch.load(out / "model_final.pth", weights_only=True)["vis_projects"]
    assert card["class_names"] == names_of(count)
    assert card["class_ids"] == [10 * (k + 1) for k in range(count)]

    cfg = config_of_checkpoint(str(out / "model_final.pth"))
    assert card["system"] == cfg.MODEL.META_ARCHITECTURE
    node = cfg
    for part in key.split("."):
        node = node[part]
    assert node == count
    MetadataCatalog.pop(name)  # another process, without the data
    predictor = DefaultPredictor(config_of_checkpoint(str(out / "model_final.pth")))
    assert list(predictor.metadata.thing_classes) == names_of(count)
    image = cv2.imread(str(tmp_path / "data/v1/00000.png"))
    predictor(image)
    if system in OF_STILLS:
        return
    assert VideoPredictor(cfg).class_names == names_of(count)
    demo = ["--weights", str(out / "model_final.pth"), "--input", str(tmp_path / "data/v1"),
            "--output", str(tmp_path / "demo")]  # fmt: skip
    assert run_script("run", demo, prog="demo.py") == 0, capfd.readouterr().err
    assert (tmp_path / "demo/overlay.mp4").stat().st_size > 0
    about = json.loads((tmp_path / "demo/video.json").read_text())
    assert [c["name"] for c in about["categories"]] == names_of(count)
    ids = {row["category_id"] for row in json.loads((tmp_path / "demo/results.json").read_text())}
    assert ids <= {10 * (k + 1) for k in range(count)}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_wrong_number_stops_before_the_first_iteration(system, count, tmp_path, capfd) -> None:
    """Both numbers and the key are named; training and evaluation alike, and no data is read on."""
    key = SYSTEMS[system][1]
    name = own_data(tmp_path / "data", count)["stills" if system in OF_STILLS else "vis"]
    argv = [*command(system, name, tmp_path / "out"), key, "2"]
    assert run_script("train", argv, prog="train_net.py") == 2
    line = capfd.readouterr().err.strip().splitlines()
    assert len(line) == 1 and key in line[0]
    assert f"has {count} class" in line[0] and "is 2" in line[0]
    assert not (tmp_path / "out/model_final.pth").exists()
    argv = [*command(system, name, tmp_path / "out", "--eval-only"), key, "2"]
    assert run_script("train", argv, prog="train_net.py") == 2
    line = capfd.readouterr().err.strip().splitlines()
    assert len(line) == 1 and f"has {count} class" in line[0] and "is 2" in line[0]


def test_counting_reads_no_training_set_for_a_demo(tmp_path, monkeypatch, capfd) -> None:
    """NUM_CLASSES and NUM_IDENTITIES 0 in the config: the checkpoint's numbers serve."""
    case: SystemCase = BY_NAME["crossvis"]
    name = own_data(tmp_path / "data", 3)["vis"]
    argv = [*command("crossvis", name, tmp_path / "out"), "MODEL.FCOS.NUM_CLASSES", "0",
            "MODEL.CROSSVIS.NUM_IDENTITIES", "0"]  # fmt: skip
    assert run_script("train", argv, prog="train_net.py") == 0
    (tmp_path / "data/vis.json").write_text("no json")
    weights = str(tmp_path / "out/model_final.pth")
    demo = ["--config-file", case.config, "--weights", weights,
            "--input", str(tmp_path / "data/v1"), "--output", str(tmp_path / "demo"), *case.opts,
            "MODEL.FCOS.NUM_CLASSES", "0", "MODEL.CROSSVIS.NUM_IDENTITIES", "0",
            "DATASETS.TRAIN", f"('{name}x',)", "DATASETS.TEST", f"('{name}x',)"]  # fmt: skip
    assert run_script("run", demo, prog="demo.py") == 0, capfd.readouterr().err


def test_names_of_the_checkpoint_are_on_every_picture(tmp_path, capfd) -> None:
    """Overlay, video.json and Detectron2's Visualizer say the names that the data had."""
    name = own_data(tmp_path / "data", 3)["vis"]
    argv = [*command("crossvis", name, tmp_path / "out"), "MODEL.FCOS.NUM_CLASSES", "0"]
    assert run_script("train", [*argv, "DATASETS.TEST", "()"], prog="train_net.py") == 0
    MetadataCatalog.pop(name)
    weights, frames = str(tmp_path / "out/model_final.pth"), str(tmp_path / "data/v1")
    demo = ["--weights", weights, "--input", frames, "--score-threshold", "0"]
    assert run_script("run", [*demo, "--output", str(tmp_path / "o")], prog="demo.py") == 0
    cfg = config_of_checkpoint(weights, ["DATASETS.TEST", f"('{name}',)"])
    source = open_source(frames)
    result = next(iter(VideoPredictor(cfg)(source)))
    assert len(result.instances)
    right, wrong = (
        OverlayPainter(class_names=n).draw(source[0], result)
        for n in (names_of(3), ["xylem 7"] * 3)
    )
    # Where the two differ lie the names; there the video shows the right ones, up to its coding.
    there = (right != wrong).any(-1)
    shown = open_source(str(tmp_path / "o/overlay.mp4"))[0].array()[..., ::-1]
    assert there.any() and shown.shape == right.shape
    off = [np.abs(shown.astype(int) - image)[there].mean() for image in (right, wrong)]
    assert off[0] < off[1] / 2, off

    written: list[str] = []

    class Noted(Visualizer):
        def draw_text(self, text, *args, **kwargs):
            written.append(text)
            return super().draw_text(text, *args, **kwargs)

    predictor = DefaultPredictor(cfg)
    image = cv2.imread(f"{frames}/00000.png")
    found = predictor(image)["instances"]
    Noted(image[:, :, ::-1], predictor.metadata).draw_instance_predictions(found)
    assert len(written) == len(found)
    assert all(text.startswith(tuple(names_of(3))) for text in written)
