"""Crowds and void, from the file on disk to the training item: nothing is learned of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from trees import davis

from vis_projects.config import load_config
from vis_projects.data import load_videos
from vis_projects.data.catalog.class_maps import apply_class_map
from vis_projects.data.catalog.registration import get_metadata
from vis_projects.data.clips.clip import Clip, Objects, crop, flip, pad, resize, warp
from vis_projects.data.formats.still_conversion import convert_voc
from vis_projects.data.train_loader import build_clip_dataset

QUICKSTART = "configs/srnet/quickstart_synthetic.yaml"
STILLS = (
    *("INPUT.PSEUDO_CLIP.KIND", "affine", "INPUT.AUGMENTATIONS.FLIP_PROB", "0.0"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.AUGMENTATIONS.REVERSE_PROB", "0.0"),
)


def polygon(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]


def write_coco(root: Path) -> None:
    """Two overlapping zebras (class 29 each, together above 40) and a crowd of bananas."""
    (root / "images").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    cv2.imwrite(str(root / "images" / "1.png"), image)
    crowd = {"size": [48, 64], "counts": [48 * 50, 48 * 14]}
    rows = [
        (24, polygon(4, 8, 30, 40), 0),
        (24, polygon(24, 8, 46, 40), 0),
        (52, crowd, 1),
    ]
    annotations = [
        {"id": k, "image_id": 1, "category_id": c, "iscrowd": flag, "segmentation": s, "area": 9,
         "bbox": [0, 0, 20, 20]}
        for k, (c, s, flag) in enumerate(rows, 1)
    ]  # fmt: skip
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": 48, "width": 64}],
        "annotations": annotations,
        "categories": [{"id": 24, "name": "zebra"}, {"id": 52, "name": "banana"}],
    }
    (root / "instances.json").write_text(json.dumps(data))


def item_of(name: str, *opts: str):
    return build_clip_dataset(load_config(QUICKSTART, ["DATASETS.TRAIN", f"('{name}',)", *opts]))[0]


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path)
    return f"own_stills:{tmp_path}/instances.json:{tmp_path}/images"


def test_a_crowd_is_ignored_also_where_a_class_map_drops_its_class(coco):
    videos = apply_class_map(load_videos(coco), "srnet/coco/ytvis_2019", get_metadata(coco))
    assert [o["category_id"] for o in videos[0]["objects"]] == [29, 29]
    opts = ("DATASETS.CLASS_MAPS", "('srnet/coco/ytvis_2019',)", "MODEL.SRNET.NUM_CLASSES", "40")
    for more in ((), opts):
        item = item_of(coco, *STILLS, *more)
        whole = [p.all() for p in item["picture"]].index(True)  # the frame that was not warped
        assert not item["valid"][whole][:, 50:].any() and item["valid"][whole][:, :50].all()
        other = 1 - whole
        assert not (item["valid"][other] & ~item["picture"][other]).any()
        assert item["valid"][other].sum() < item["picture"][other].sum()


def test_losses_do_not_depend_on_what_is_predicted_in_a_crowd(coco):
    """SRNet on overlapping zebras beside a crowd: finite, and blind to the crowd."""
    cfg = load_config(
        QUICKSTART,
        [
            *("DATASETS.TRAIN", f"('{coco}',)", *STILLS),
            *("DATASETS.CLASS_MAPS", "('srnet/coco/ytvis_2019',)", "MODEL.SRNET.NUM_CLASSES", "40"),
            *("MODEL.SRNET.FIRST_FRAME_PROB", "1.0", "INPUT.PSEUDO_CLIP.KIND", "repeat"),
        ],
    )
    item = build_clip_dataset(cfg)[0]
    torch.manual_seed(0)
    model = build_model(cfg).train()
    raw = {}
    forward = model.heads.forward

    def keep(*args, **kwargs):
        raw.update(forward(*args, **kwargs))
        return {name: value.detach().requires_grad_() for name, value in raw.items()}

    held = {}
    model.heads.forward = lambda *a, **k: held.update(keep(*a, **k)) or held
    losses = model([item])
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    for name, value in held.items():
        if value.grad is not None:
            assert value.grad[..., 13:].abs().max() == 0, name  # columns 52 to 63, the crowd
            if name != "tracking":  # which is not learned in a first frame
                assert value.grad[..., :12].abs().max() > 0, name


def test_void_of_davis(tmp_path, monkeypatch):
    davis(tmp_path, year=2019)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    item = item_of("davis_2019_val", "INPUT.MIN_SIZE_TRAIN", "(0,)")
    for valid, picture in zip(item["valid"], item["picture"]):
        assert not valid[0, :3].any() and valid[1:].all() and picture.all()


def test_void_of_davis_2016_is_the_object(tmp_path, monkeypatch):
    davis(tmp_path, year=2016)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert "valid" not in item_of("davis_2016_val", "INPUT.MIN_SIZE_TRAIN", "(0,)")


def test_void_of_voc(tmp_path, monkeypatch):
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\n")
    objects = np.zeros((40, 60), np.uint8)
    objects[5:35, 5:30] = 1
    objects[5:35, 30:34] = 255
    classes = np.where(objects == 1, 15, objects)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / "JPEGImages/2007_000032.jpg")
    Image.fromarray(objects).save(root / "SegmentationObject/2007_000032.png")
    Image.fromarray(classes.astype(np.uint8)).save(root / "SegmentationClass/2007_000032.png")
    convert_voc(root, progress=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    item = item_of("voc_stills_train", *STILLS, "INPUT.PSEUDO_CLIP.KIND", "repeat",
                   "INPUT.MIN_SIZE_TRAIN", "(0,)")  # fmt: skip
    expected = torch.from_numpy(objects != 255)
    assert torch.equal(item["valid"][0], expected) and item["picture"][0].all()


def test_what_is_ignored_moves_with_the_picture():
    """Every operation treats the ignored map as it treats a mask."""
    region = np.zeros((40, 60), bool)
    region[8:20, 10:36] = True
    objects = Objects(region[None].astype(np.uint8), *(np.ones(1, np.int64) for _ in range(3)),
                      np.zeros((1, 4), np.float32))  # fmt: skip
    clip = Clip([np.zeros((40, 60, 3), np.uint8)], [objects], ignored=[region])
    turn = np.array([[0.9, -0.2, 5], [0.2, 0.9, -3], [0, 0, 1.0]])
    for step in (
        flip,
        lambda c: resize(c, 50, 70),
        lambda c: warp(c, 0, turn),
        lambda c: crop(c, 3, 5, 44, 60),
        lambda c: pad(c, 64, 64),
    ):
        step(clip)
        assert clip.ignored[0].any()
        assert np.array_equal(clip.ignored[0], clip.objects[0].masks[0].astype(bool))
