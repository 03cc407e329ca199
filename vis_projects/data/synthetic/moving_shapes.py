"""The synthetic data set: moving shapes, rendered on the fly and exactly annotated.

Names: ``synthetic_{train,val}`` (VIS), ``synthetic_uvos_{train,val}``,
``synthetic_vos_{train,val}`` (masks of frame 0 are given) and ``synthetic_stills_{train,val}``
(single frames, COCO evaluation). Options are
appended to a name: ``synthetic_train:videos=1000:length=12:size=192x320:difficulty=hard``.

``synthetic_val`` as it stands is the standard validation set: 50 videos of 20 frames, 96 x 160,
easy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ...structures import FrameSource, InputError, encode_masks, mask_area
from ..catalog.registration import register_dataset, register_name_pattern
from ..formats.label_maps import LabelMapAnnotations, box_of_mask
from ..formats.stills import stills_as_videos
from ..formats.video_record import Video
from .render import render_frame
from .scene import CLASSES, Scene, SceneOptions

_VAL_SEEDS = 10_000_000  # training uses the seeds below, see _seed
_EVALUATORS = {"vis": "ytvis", "uvos": "davis_unsup", "vos": "davis_semi", "stills": "coco"}
_NAME = re.compile(r"synthetic(?:_(uvos|vos|stills))?_(train|val)")


@dataclass(frozen=True)
class SyntheticOptions:
    """Options of a synthetic data set; ``None`` means the default of the split.

    Attributes:
        task: "vis", "uvos", "vos" or "stills".
        split: "train" or "val".
        videos: number of videos; by default 300 and 50, stills 1000 and 200.
        length: frames of a video.
        size: (H, W).
        difficulty: "easy" (hue tells the class) or "hard" (hues are random).
        seed: another draw of the training set, 0..9.
        step: frames of the scene from one frame of the video to the next: 3 moves thrice as far.
    """

    task: str = "vis"
    split: str = "train"
    videos: int | None = None
    length: int = 20
    size: tuple[int, int] = (96, 160)
    difficulty: str = "easy"
    seed: int = 0
    step: int = 1

    @property
    def count(self) -> int:
        if self.videos is not None:
            return self.videos
        train = self.split == "train"
        if self.task == "stills":
            return 1000 if train else 200
        return 300 if train else 50

    @property
    def scene(self) -> SceneOptions:
        return SceneOptions(size=self.size, difficulty=self.difficulty)


def parse_name(name: str) -> SyntheticOptions:
    """Read the options of a name such as ``synthetic_vos_train:videos=60:difficulty=hard``.

    Raises:
        InputError: no such data set, option or value.
    """
    base, *pairs = name.split(":")
    match = _NAME.fullmatch(base)
    if match is None:
        raise InputError(
            f"data set {name!r}: synthetic sets are called "
            f"synthetic[_uvos|_vos|_stills]_{{train,val}}"
        )
    options = SyntheticOptions(task=match[1] or "vis", split=match[2])
    for pair in pairs:
        key, _, text = pair.partition("=")
        options = replace(options, **{key: _option(name, key, text)})
    return options


def _option(name: str, key: str, text: str) -> Any:
    limits = {"videos": (1, 1_000_000), "length": (1, 100_000), "seed": (0, 9), "step": (1, 20)}
    if key in limits and text.isdigit() and limits[key][0] <= int(text) <= limits[key][1]:
        return int(text)
    if key == "difficulty" and text in ("easy", "hard"):
        return text
    if key == "size" and (match := re.fullmatch(r"(\d+)x(\d+)", text)):
        size = (int(match[1]), int(match[2]))
        if min(size) >= 48 and max(size) <= 4096:
            return size
    raise InputError(
        f"data set {name!r}: {key}={text!r} is no option; use videos=N, length=N, size=HxW (48 to "
        "4096), difficulty=easy|hard, seed=0..9, step=1..20"
    )


@lru_cache(maxsize=4096)
def scene_of(seed: int, options: SceneOptions) -> Scene:
    """Return the scene of a seed; cached."""
    return Scene(seed, options)


def _seed(options: SyntheticOptions, index: int) -> int:
    if options.split == "val":
        return _VAL_SEEDS + index
    return options.seed * 1_000_000 + index


class SyntheticSource(FrameSource):
    """Renders every ``step``-th frame of one scene, from frame ``start`` on."""

    def __init__(
        self,
        seed: int,
        options: SceneOptions,
        frames: int,
        split: int,
        start: int,
        image_format: str = "BGR",
        *,
        step: int = 1,
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=0)
        self.seed, self.options = seed, options
        self.frames, self.split, self.start, self.step = frames, split, start, step

    @property
    def size(self) -> tuple[int, int]:
        return self.options.size

    @property
    def length(self) -> int:
        return self.frames

    def read(self, index: int) -> np.ndarray:
        scene = scene_of(self.seed, self.options)
        image, _ = render_frame(scene, self.start + index * self.step, split=self.split)
        return image if self.image_format == "BGR" else np.ascontiguousarray(image[..., ::-1])


class SyntheticLabels(LabelMapAnnotations):
    """The visible ids of a scene, drawn on demand."""

    def __init__(
        self,
        seed: int,
        options: SceneOptions,
        length: int,
        categories: dict[int, int],
        *,
        step: int = 1,
    ) -> None:
        super().__init__(length, categories)
        self.seed, self.options, self.step = seed, options, step

    def label_map(self, t: int) -> np.ndarray:
        return scene_of(self.seed, self.options).label_map(t * self.step)


def load_synthetic(options: SyntheticOptions) -> tuple[list[Video], dict[str, Any]]:
    """Return the videos of a synthetic set and its metadata.

    The metadata's ``ground_truth_fn`` makes the ground truth in memory: a YouTube-VIS dict (VIS), a
    COCO dict (stills) or ``{name: uint8 label maps (T, H, W)}``.
    """
    videos = [_video(options, i) for i in range(options.count)]
    classes = CLASSES if options.task in ("vis", "stills") else ("object",)
    if options.task == "stills":
        videos = stills_as_videos([_still(v, options) for v in videos])
    truth: Callable[[], Any] = {
        "vis": partial(ytvis_ground_truth, videos, classes),
        "stills": partial(_coco_ground_truth, videos, classes),
    }.get(options.task, partial(label_map_ground_truth, videos))
    return videos, {
        "thing_classes": list(classes),
        "ground_truth_fn": lru_cache(maxsize=1)(truth),
        "synthetic_options": options,
    }


def _video(options: SyntheticOptions, index: int) -> Video:
    seed, scene_options = _seed(options, index), options.scene
    scene = scene_of(seed, scene_options)
    named = options.task in ("vis", "stills")
    categories = {i: int(c) if named else 0 for i, c in enumerate(scene.categories, 1)}
    name = f"synthetic_{options.split}_{index:04d}"
    split, step = int(options.split == "val"), options.step
    source = partial(SyntheticSource, seed, scene_options, options.length, split, 0, step=step)
    return {
        "video_id": index + 1 if named else name,
        "name": name,
        "source": source,
        "height": options.size[0],
        "width": options.size[1],
        "length": options.length,
        "objects": [{"id": i, "category_id": c} for i, c in categories.items()],
        "annotations": SyntheticLabels(seed, scene_options, options.length, categories, step=step),
        "starts": {0: list(categories)},
    }


def _still(video: Video, options: SyntheticOptions) -> dict[str, Any]:
    """Return one frame of a video as a Detectron2 dataset dict without a file."""
    seed, *_ = video["source"].args
    t = seed * 7 % options.length
    annotations = [dict(a) for a in video["annotations"][t]]
    rles = encode_masks(np.stack([a["segmentation"] for a in annotations])) if annotations else []
    for annotation, rle in zip(annotations, rles):
        annotation["segmentation"] = rle
        annotation.pop("id")
    split = int(options.split == "val")
    return {
        "file_name": f"{video['name']}.png",
        "source": partial(SyntheticSource, seed, options.scene, 1, split, t * options.step),
        "image_id": video["video_id"],
        "height": video["height"],
        "width": video["width"],
        "annotations": annotations,
    }


def ytvis_ground_truth(videos: list[Video], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the annotations of label-map videos as a YouTube-VIS ground-truth dict."""
    annotations = []
    for video in videos:
        labels = np.stack([video["annotations"].label_map(t) for t in range(video["length"])])
        for item in video["objects"]:
            masks = labels == item["id"]
            rles = [r if m.any() else None for r, m in zip(encode_masks(masks), masks)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video["video_id"],
                    "category_id": item["category_id"] + 1,
                    "iscrowd": 0,
                    "width": video["width"],
                    "height": video["height"],
                    "length": video["length"],
                    "segmentations": rles,
                    "bboxes": [_xywh(m) if m.any() else None for m in masks],
                    "areas": [None if r is None else mask_area(r) for r in rles],
                }
            )
    return {
        "info": {},
        "licenses": [],
        "videos": [
            {
                "id": v["video_id"],
                "width": v["width"],
                "height": v["height"],
                "length": v["length"],
                "file_names": [f"{v['name']}/{t:05d}.png" for t in range(v["length"])],
            }
            for v in videos
        ],
        "categories": [
            {"id": i, "name": n, "supercategory": "object"} for i, n in enumerate(classes, 1)
        ],
        "annotations": annotations,
    }


def label_map_ground_truth(videos: list[Video]) -> dict[str, np.ndarray]:
    """Return ``{name: uint8 label maps (T, H, W)}``."""
    return {
        v["name"]: np.stack([v["annotations"].label_map(t) for t in range(v["length"])])
        for v in videos
    }


def _coco_ground_truth(videos: list[Video], classes: tuple[str, ...]) -> dict[str, Any]:
    annotations = []
    for video in videos:
        for item in video["annotations"][0]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": video["video_id"],
                    "category_id": item["category_id"] + 1,
                    "iscrowd": 0,
                    "bbox": BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYWH_ABS),
                    "segmentation": item["segmentation"],
                    "area": mask_area(item["segmentation"]),
                }
            )
    images = [
        {
            "id": v["video_id"],
            "width": v["width"],
            "height": v["height"],
            "file_name": v["name"] + ".png",
        }
        for v in videos
    ]
    categories = [{"id": i, "name": n, "supercategory": "object"} for i, n in enumerate(classes, 1)]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def _xywh(mask: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = box_of_mask(mask)
    return [x0, y0, x1 - x0, y1 - y0]


def register_synthetic(name: str) -> bool:
    """Register a synthetic set under a name with options; False if the name is taken.

    Raises:
        InputError: see ``parse_name``.
    """
    options = parse_name(name)
    named = options.task in ("vis", "stills")
    return register_dataset(
        name,
        partial(load_synthetic, options),
        evaluator_type=_EVALUATORS[options.task],
        task=options.task,
        categories=[{"id": i, "name": n} for i, n in enumerate(CLASSES, 1)] if named else (),
    )


def register_standard_sets() -> None:
    """Register the sets without options, ``synthetic_train`` to ``synthetic_stills_val``."""
    for form in ("", "uvos_", "vos_", "stills_"):
        for split in ("train", "val"):
            register_synthetic(f"synthetic_{form}{split}")


register_name_pattern("synthetic_", register_synthetic)
