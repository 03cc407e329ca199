"""COCO files and COCO AP: reading, converting, scoring; hand-made cases with known results."""

from __future__ import annotations

import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json, load_coco_json, register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances

HEIGHT, WIDTH = 120, 160


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco_file(path, annotations, *, categories=((3, "cat"), (7, "dog")), images=2):
    content = {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(images)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    if annotations is not None:
        content["annotations"] = [
            {"id": k, "iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a}
            for k, a in enumerate(annotations, start=1)
        ]
    path.write_text(json.dumps(content))
    return str(path)


def annotation(image: int, category: int, x: float, y: float, side: float, **more) -> dict:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, side, side],
        "segmentation": [square(x, y, side)],
        **more,
    }


@pytest.fixture
def dataset(tmp_path):
    """Two images: a small cat and a large dog in the first, a cat in the second."""
    name = f"coco_case_{tmp_path.name}"
    annotations = [
        annotation(10, 3, 5, 5, 20),
        annotation(10, 7, 20, 10, 100),
        annotation(11, 3, 40, 40, 50),
    ]
    register_coco_instances(name, {}, coco_file(tmp_path / "gt.json", annotations), "images")
    DatasetCatalog.get(name)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def detections(rows) -> Instances:
    """Rows (x, y, side, class, score) as Instances with masks."""
    out = Instances((HEIGHT, WIDTH))
    boxes = torch.tensor([[x, y, x + s, y + s] for x, y, s, _, _ in rows]).reshape(-1, 4).float()
    out.pred_boxes = Boxes(boxes)
    out.pred_classes = torch.tensor([r[3] for r in rows], dtype=torch.int64)
    out.scores = torch.tensor([r[4] for r in rows], dtype=torch.float32)
    masks = torch.zeros(len(rows), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist()):
        mask[y0:y1, x0:x1] = True
    out.pred_masks = masks
    return out


PERFECT = {
    10: [(5, 5, 20, 0, 0.9), (20, 10, 100, 1, 0.8)],
    11: [(40, 40, 50, 0, 0.7)],
}


def score(dataset, by_image, **options):
    evaluator = COCOEvaluator(dataset, **options)
    evaluator.reset()
    for image_id, rows in by_image.items():
        inputs = [{"image_id": image_id}]
        evaluator.process(inputs, [{"instances": detections(rows)}])
    return evaluator.evaluate()


def test_perfect_predictions(dataset, tmp_path):
    results = score(dataset, PERFECT, output_dir=str(tmp_path / "out"))
    assert set(results) == {"bbox", "segm"}
    for task in results.values():
        assert list(task) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog"]
        assert all(v == pytest.approx(100) for v in task.values())
    saved = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert sorted(x["category_id"] for x in saved) == [3, 3, 7]  # the file's own ids
    assert isinstance(saved[0]["segmentation"]["counts"], str)
    kept = torch.load(tmp_path / "out/instances_predictions.pth", weights_only=True)
    assert [p["image_id"] for p in kept] == [10, 11]


def test_partial_predictions(dataset):
    """The dog is missed: its class has AP 0, the mean halves, large objects have none."""
    results = score(dataset, {10: [(5, 5, 20, 0, 0.9)], 11: [(40, 40, 50, 0, 0.7)]})["bbox"]
    assert results["AP"] == pytest.approx(50) and results["AP-dog"] == 0
    assert results["AP-cat"] == pytest.approx(100) and results["APl"] == 0


def test_false_positive_before_the_hit(dataset):
    """Cat: wrong first, then both right: precision 1/2, 2/3, interpolated to 2/3 everywhere."""
    rows = {10: [(100, 60, 30, 0, 0.99), *PERFECT[10]], 11: PERFECT[11]}
    results = score(dataset, rows)["bbox"]
    assert results["AP-cat"] == pytest.approx(200 / 3, abs=1e-3)


def test_loose_boxes_count_at_low_thresholds_only(dataset):
    """IoU 20*14/(2*400-280) = 0.538 for the small cat: only the threshold 0.5 is met."""
    rows = {10: [(11, 5, 20, 0, 0.9), (20, 10, 100, 1, 0.8)], 11: PERFECT[11]}
    results = score(dataset, rows)["bbox"]
    assert results["AP50"] == pytest.approx(100) and results["AP75"] < 80
    assert results["APs"] == pytest.approx(10)


def test_limit_on_detections(dataset):
    rows = {10: [(100, 60, 30, 0, 0.99), *PERFECT[10]], 11: PERFECT[11]}
    results = score(dataset, rows, max_dets_per_image=1)["bbox"]
    # Per class and image only the best counts, which hides the small cat.
    assert results["AP-cat"] < 50 and results["AP-dog"] == pytest.approx(100)


def test_nothing_found(dataset):
    results = score(dataset, {10: [], 11: []}, tasks=("bbox", "segm"))
    assert all(math.isnan(v) for v in results["segm"].values())
    evaluator = COCOEvaluator(dataset)
    assert evaluator.evaluate() == {}


def test_only_some_images(dataset):
    evaluator = COCOEvaluator(dataset)
    evaluator.process([{"image_id": 11}], [{"instances": detections(PERFECT[11])}])
    results = evaluator.evaluate(img_ids=[11])["bbox"]
    assert results["AP"] == pytest.approx(100) and math.isnan(results["AP-dog"])


def test_reset_forgets(dataset):
    evaluator = COCOEvaluator(dataset)
    evaluator.process([{"image_id": 11}], [{"instances": detections(PERFECT[11])}])
    evaluator.reset()
    assert evaluator.evaluate() == {}


@pytest.mark.lite
def test_wrong_uses(dataset):
    with pytest.raises(ValueError, match="class 5"):
        score(dataset, {10: [(5, 5, 20, 5, 0.9)]})
    with pytest.raises(ValueError, match="keypoints"):
        COCOEvaluator(dataset, tasks=("keypoints",))
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator("data_set_nobody_registered")
    assert COCOEvaluator(dataset, get_cfg())._tasks is None  # the older calling form


def test_file_without_annotations_is_only_written(tmp_path):
    name = f"coco_test_{tmp_path.name}"
    register_coco_instances(name, {}, coco_file(tmp_path / "gt.json", None), "images")
    DatasetCatalog.get(name)
    assert score(name, PERFECT, output_dir=str(tmp_path)) == {}
    assert (tmp_path / "coco_instances_results.json").is_file()


def test_data_set_without_a_json_file(tmp_path):
    """It is converted: same scores, ids of its own."""
    name = f"dicts_{tmp_path.name}"
    rle = mask_util.encode(
        np.asfortranarray(np.pad(np.ones((20, 20), np.uint8), ((5, 95), (5, 135))))
    )
    dicts = [
        {
            "file_name": "0.png",
            "image_id": 10,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": [
                {
                    "bbox": [5, 5, 25, 25],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 0,
                    "segmentation": rle,
                },
                {
                    "bbox": np.array([20.0, 10, 100, 100]),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 1,
                    "segmentation": [square(20, 10, 100)],
                    "iscrowd": 0,
                },
            ],
        },
        {
            "file_name": "1.png",
            "image_id": 11,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": [
                {
                    "bbox": [40, 40, 50, 50],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 0,
                    "segmentation": [square(40, 40, 50)],
                }
            ],
        },
    ]
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    results = score(name, PERFECT, output_dir=str(tmp_path))
    assert results["segm"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / f"{name}_coco_format.json").read_text())
    assert [a["area"] for a in written["annotations"]] == pytest.approx([400, 10000, 2500])
    again = load_coco_json(str(tmp_path / f"{name}_coco_format.json"), "", f"{name}_again")
    assert [len(d["annotations"]) for d in again] == [2, 1]
    assert BoxMode.convert(again[0]["annotations"][0]["bbox"], BoxMode.XYWH_ABS, 0) == [
        5,
        5,
        25,
        25,
    ]
    # A file that exists is kept, unless told otherwise.
    (tmp_path / "kept.json").write_text("{}")
    convert_to_coco_json(name, str(tmp_path / "kept.json"))
    assert (tmp_path / "kept.json").read_text() == "{}"
    convert_to_coco_json(name, str(tmp_path / "kept.json"), allow_cached=False)
    assert len(json.loads((tmp_path / "kept.json").read_text())["images"]) == 2


# ---------------------------------------------------------------- files


def test_load_coco_json(tmp_path, dataset):
    dicts = DatasetCatalog.get(dataset)
    assert [d["image_id"] for d in dicts] == [10, 11] and dicts[0]["file_name"] == "images/0.png"
    first = dicts[0]["annotations"][1]
    assert first["category_id"] == 1 and first["bbox_mode"] == BoxMode.XYWH_ABS
    metadata = MetadataCatalog.get(dataset)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"
    # Without a name the file's ids stay.
    plain = load_coco_json(metadata.json_file, "", extra_annotation_keys=["area"])
    assert plain[0]["annotations"][1]["category_id"] == 7
    assert plain[0]["annotations"][1]["area"] == 10000


def test_odd_segmentations(tmp_path):
    square_with_line = annotation(10, 3, 0, 0, 9)
    square_with_line["segmentation"].append([1, 2, 3, 4])
    only_line = annotation(10, 3, 0, 0, 9, segmentation=[[1, 2, 3, 4]])
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]}
    as_rle = annotation(10, 3, 0, 0, 9, segmentation=uncompressed, iscrowd=1)
    bare = {"image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9]}
    path = coco_file(tmp_path / "a.json", [square_with_line, only_line, as_rle, bare])
    objects = load_coco_json(path, "")[0]["annotations"]
    assert len(objects) == 3 and len(objects[0]["segmentation"]) == 1
    assert mask_util.area(objects[1]["segmentation"]) == 5 and objects[1]["iscrowd"] == 1
    assert "segmentation" not in objects[2]


@pytest.mark.lite
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, "category 4"),
        ({"ignore": 1}, "ignore"),
        ({"id": 2}, "not unique"),
        ({"bbox": []}, "empty bbox"),
    ],
)
def test_bad_files(tmp_path, change, message):
    annotations = [annotation(10, 3, 0, 0, 9), annotation(10, 3, 0, 0, 9)]
    path = coco_file(tmp_path / "a.json", annotations)
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"][0].update(change)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_coco_json(path, "", f"bad_{message}_{tmp_path.name}")


@pytest.mark.lite
def test_missing_file():
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        load_coco_json("/nowhere/instances.json", "")


def test_builtin_names():
    assert len(COCO_CATEGORIES) == 80 and len({c["name"] for c in COCO_CATEGORIES}) == 80
    by_id = {c["id"]: c["name"] for c in COCO_CATEGORIES}
    assert (by_id[1], by_id[13], by_id[44], by_id[90]) == (
        "person",
        "stop sign",
        "bottle",
        "toothbrush",
    )
    for name in ("coco_2017_train", "coco_2017_val", "coco_2014_minival"):
        assert name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes[0] == "person" and metadata.evaluator_type == "coco"
    assert MetadataCatalog.get("coco_2017_val").json_file.endswith("instances_val2017.json")


def test_instances_to_coco_json():
    rows = instances_to_coco_json(detections([(5, 6, 20, 1, 0.5)]), 4)
    assert rows[0]["bbox"] == [5, 6, 20, 20] and rows[0]["image_id"] == 4
    assert mask_util.area(rows[0]["segmentation"]) == 400
    boxes_only = detections([(5, 6, 20, 1, 0.5)])
    boxes_only.remove("pred_masks")
    assert "segmentation" not in instances_to_coco_json(boxes_only, 4)[0]
    assert instances_to_coco_json(detections([]), 4) == []
