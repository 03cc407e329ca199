"""Classes of the built-in data sets."""

from __future__ import annotations

# Names in the order of the data set's ids, which run from 1 to 90 with gaps.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
    bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
    carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet,
    tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""


def _categories() -> list[dict]:
    ids = (i for i in range(1, 91) if i not in _COCO_GAPS)
    names = (name.strip() for name in _COCO_NAMES.split(","))
    return [{"id": i, "name": name, "isthing": 1} for i, name in zip(ids, names)]


COCO_CATEGORIES = _categories()


def _get_builtin_metadata(dataset_name: str) -> dict:
    """Classes and id map of ``coco``. Raises KeyError for another name."""
    if dataset_name != "coco":
        raise KeyError(f"there is no built-in metadata for {dataset_name!r}")
    return {
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(COCO_CATEGORIES)},
        "thing_classes": [c["name"] for c in COCO_CATEGORIES],
    }
