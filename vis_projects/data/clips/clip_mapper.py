"""The clip mapper: reads the frames of a ``ClipItem`` and makes a training item of them.

An item holds ``image`` (list of uint8 (3, H, W)), ``instances`` (list of Instances with
``gt_boxes``, ``gt_classes``, ``gt_masks``, ``gt_ids``, ``gt_identity``), ``video_id``,
``frame_indices``, ``dataset``, ``height`` and ``width`` (of the original frames), ``object_id``
(or None), ``pseudo`` (made of a still) and, if something was padded, warped or is to be ignored
(crowds, void), ``valid``: a list of bool (H, W), where there is something to learn. ``picture`` is
then the same without regard to what is ignored: where there is a picture at all. Items of the
``still`` sampler are
flat: one tensor, one Instances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from ...structures import InputError
from ..formats.label_maps import VOID, LabelMapAnnotations
from ..formats.video_record import Video, frame_source
from .clip import Clip, Objects, boxes_of_masks, finish_boxes, pad, resize
from .clip_augmentation import (
    jitter_colour,
    random_blur,
    random_crop,
    random_flip,
    random_resize,
    random_reverse,
    random_scale,
)
from .frame_samplers import ClipItem
from .instance_duplicator import duplicate_instance
from .pseudo_clips import WarpOptions, affine_clip, rotation_clip, warp_frame


class ClipMapper:
    """Reads, augments and packs clips; the same generator state gives the same item.

    Args:
        cfg: reads ``INPUT``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.image_format = cfg.INPUT.FORMAT
        self.short = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        self.max_long = cfg.INPUT.MAX_SIZE_TRAIN
        self.style = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        self.outlines = cfg.INPUT.MASK_FORMAT == "polygon"
        self.options = cfg.INPUT.AUGMENTATIONS.clone()
        self.pseudo = cfg.INPUT.PSEUDO_CLIP.clone()
        if self.options.RESIZE_FILTER not in ("bilinear", "area_bicubic"):
            raise InputError(
                f"INPUT.AUGMENTATIONS.RESIZE_FILTER {self.options.RESIZE_FILTER!r} is unknown: "
                "bilinear or area_bicubic"
            )
        if self.pseudo.KIND not in ("repeat", "rotation", "affine"):
            raise InputError(
                f"INPUT.PSEUDO_CLIP.KIND {self.pseudo.KIND!r} is unknown: repeat, rotation or "
                "affine"
            )

    def __call__(
        self,
        video: Video,
        item: ClipItem,
        rng: np.random.Generator,
        *,
        dataset: str = "",
        identity_offset: int = 0,
        flat: bool = False,
    ) -> dict[str, Any]:
        """Return the training item of some frames of a video.

        Raises:
            InputError: a frame or mask is missing or damaged.
        """
        clip = read_clip(
            video,
            item,
            image_format=self.image_format,
            offset=identity_offset,
            outlines=self.outlines,
        )
        frames = list(item.frames)
        still = "still" in video
        if still and len(clip) > 1:
            self._make_motion(clip, rng)
        if random_reverse(clip, rng, prob=self.options.REVERSE_PROB):
            frames.reverse()
        self._augment(clip, rng)
        finish_boxes(
            clip,
            min_pixels=self.options.MIN_VISIBLE_PIXELS,
            from_masks=self.options.BOXES_FROM_MASKS,
        )
        return pack(video, item, clip, frames, dataset=dataset, pseudo=still, flat=flat)

    def _make_motion(self, clip: Clip, rng: np.random.Generator) -> None:
        options = self.pseudo
        if options.KIND == "rotation":
            rotation_clip(clip, degrees=options.DEGREES, rng=rng)
        elif options.KIND == "affine":
            warps = WarpOptions(
                options.PERSPECTIVE,
                options.ROTATION,
                options.TRANSLATION,
                options.VALUE,
                options.HUE_SATURATION,
                options.BLUR_PROB,
            )
            affine_clip(clip, rng, warps, image_format=self.image_format)

    def _augment(self, clip: Clip, rng: np.random.Generator) -> None:
        options, crop = self.options, self.options.CROP
        random_flip(clip, rng, prob=options.FLIP_PROB)
        if options.DUPLICATE_PROB > 0:
            duplicate_instance(clip, rng, prob=options.DUPLICATE_PROB)
        if min(options.RESIZE_TO) > 0:
            resize(clip, *options.RESIZE_TO, kind=options.RESIZE_FILTER)
        else:
            random_resize(clip, rng, short=self.short, max_long=self.max_long, style=self.style)
        random_scale(clip, rng, low=options.SCALE[0], high=options.SCALE[1])
        if options.MOTION.ROTATION or options.MOTION.TRANSLATION or options.MOTION.PERSPECTIVE:
            warps = WarpOptions(
                options.MOTION.PERSPECTIVE,
                options.MOTION.ROTATION,
                options.MOTION.TRANSLATION,
                value=0,
                hue_saturation=0,
                blur_prob=0.0,
            )
            for f in range(len(clip)):
                warp_frame(clip, f, rng, warps, image_format=self.image_format)
        if min(crop.SIZE) > 0:
            random_crop(
                clip,
                rng,
                size=tuple(crop.SIZE),
                style=crop.STYLE,
                tries=crop.TRIES,
                min_share=crop.MIN_SHARE,
                min_pixels=crop.MIN_PIXELS,
            )
        colour = options.COLOUR
        jitter_colour(
            clip,
            rng,
            brightness=colour.BRIGHTNESS,
            contrast=colour.CONTRAST,
            saturation=colour.SATURATION,
            hue=colour.HUE,
            per_frame=colour.PER_FRAME,
            image_format=self.image_format,
        )
        blur = options.BLUR
        random_blur(
            clip,
            rng,
            motion_prob=blur.MOTION_PROB,
            gaussian_prob=blur.GAUSSIAN_PROB,
            gaussian_sigma=blur.GAUSSIAN_SIGMA,
        )
        if max(options.PAD_TO) > 0:
            pad(clip, *options.PAD_TO)


def read_clip(
    video: Video,
    item: ClipItem,
    *,
    image_format: str = "BGR",
    offset: int = 0,
    outlines: bool = False,
) -> Clip:
    """Read frames and objects; only one object if the item names one; crowds are ignored.

    Args:
        outlines: keep polygons beside the masks, to be drawn again after scaling.
    """
    source = frame_source(video, image_format=image_format)
    identity = {o["id"]: o.get("identity", -1) for o in video.get("objects") or ()}
    identity = {i: k + offset if k >= 0 else -1 for i, k in identity.items()}
    images: dict[int, np.ndarray] = {}
    clip = Clip([], [])
    for t in item.frames:
        if t not in images:
            images[t] = source.read(t)
        clip.images.append(images[t].copy() if item.frames.count(t) > 1 else images[t])
        objects, ignored = read_annotations(video, t, identity)
        if outlines:
            objects.outlines = read_outlines(video, t)
        if item.object_id is not None:
            objects = objects.select(objects.ids == item.object_id)
        clip.objects.append(objects)
        clip.valid.append(None)
        clip.ignored.append(ignored)
    source.close()
    return clip


def read_objects(video: Video, t: int, identity: dict[int, int] | None = None) -> Objects:
    """Return the objects of frame t of a video."""
    return read_annotations(video, t, identity)[0]


def read_annotations(
    video: Video, t: int, identity: dict[int, int] | None = None
) -> tuple[Objects, np.ndarray | None]:
    """Return the objects of frame t of a video, and where it is ignored: bool (H, W) or None.

    Ignored are crowds, the void of label maps and what ``video["ignored"]`` names, save where an
    object is annotated.
    """
    height, width = video["height"], video["width"]
    annotations = video.get("annotations")
    identity = identity or {}
    if annotations is None:
        return Objects.none(height, width), None
    if isinstance(annotations, LabelMapAnnotations):
        labels = annotations.label_map(t)
        if labels is None:
            return Objects.none(height, width), None
        ids = annotations.ids_in(labels)
        masks = (labels == ids[:, None, None]).astype(np.uint8)
        classes = np.array([annotations.categories.get(int(i), 0) for i in ids], np.int64)
        boxes = boxes_of_masks(masks)
        ignored = labels == VOID
    else:
        rows = [a for a in annotations[t] if not a.get("iscrowd", 0)]
        ids = np.array([a["id"] for a in rows], np.int64)
        classes = np.array([a["category_id"] for a in rows], np.int64)
        masks = np.zeros((len(rows), height, width), np.uint8)
        for k, a in enumerate(rows):
            masks[k] = decode_segmentation(a["segmentation"], (height, width), video["name"])
        boxes = np.array(
            [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in rows],
            np.float32,
        ).reshape(-1, 4)
        ignored = np.zeros((height, width), bool)
        for given in ignored_regions(video, t):
            ignored |= decode_segmentation(given, (height, width), video["name"]).astype(bool)
        ignored &= ~masks.any(0)
    known = np.array([identity.get(int(i), -1) for i in ids], np.int64)
    objects = Objects(masks, ids.astype(np.int64), classes, known, boxes)
    return objects, ignored if ignored.any() else None


def read_outlines(video: Video, t: int) -> list[list[np.ndarray] | None] | None:
    """Return the polygons (P, 2) of every object of frame t, None for other forms of masks."""
    annotations = video.get("annotations")
    if annotations is None or isinstance(annotations, LabelMapAnnotations):
        return None
    rows = [a["segmentation"] for a in annotations[t] if not a.get("iscrowd", 0)]
    return [
        [np.array(p, np.float64).reshape(-1, 2) for p in s] if isinstance(s, list) else None
        for s in rows
    ]


def ignored_regions(video: Video, t: int) -> list[Any]:
    """Return the segmentations of frame t of which nothing is to be learned."""
    crowds = [a["segmentation"] for a in video["annotations"][t] if a.get("iscrowd", 0)]
    named = video.get("ignored")
    return crowds + (list(named[t]) if named else [])


def decode_segmentation(segmentation: Any, size: tuple[int, int], where: str = "") -> np.ndarray:
    """Return a uint8 mask (H, W) of an RLE (compressed or not), polygons or an array.

    Raises:
        InputError: the mask has another size than the frame, or cannot be decoded.
    """
    if isinstance(segmentation, np.ndarray):
        mask = segmentation.astype(np.uint8)
    else:
        try:
            if isinstance(segmentation, dict):
                rle = segmentation
                if isinstance(rle["counts"], list):
                    rle = mask_util.frPyObjects(rle, *rle["size"])
            else:
                rle = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
            mask = mask_util.decode(rle)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"video {where}: a segmentation is neither RLE nor polygons; run "
                "datasets/prepare.py check"
            ) from None
    if mask.shape != tuple(size):
        raise InputError(
            f"video {where}: a mask of {mask.shape[0]}x{mask.shape[1]} in frames of "
            f"{size[0]}x{size[1]} "
            "(rows x columns); the annotations belong to other images"
        )
    return mask


def to_instances(objects: Objects, size: tuple[int, int]) -> Instances:
    """Return Detectron2 Instances of a frame's objects."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(objects.boxes)))
    instances.gt_classes = torch.from_numpy(objects.classes.copy())
    instances.gt_masks = BitMasks(torch.from_numpy(objects.masks.astype(bool)))
    instances.gt_ids = torch.from_numpy(objects.ids.copy())
    instances.gt_identity = torch.from_numpy(objects.identities.copy())
    return instances


def _maps(clip: Clip) -> dict[str, list[torch.Tensor]]:
    """``valid`` of an item, and ``picture`` where the two differ."""
    if all(m is None for m in (*clip.valid, *clip.ignored)):
        return {}
    picture = [np.ones(clip.size, bool) if v is None else v.copy() for v in clip.valid]
    if all(m is None for m in clip.ignored):
        return {"valid": [torch.from_numpy(p) for p in picture]}
    valid = [p if m is None else p & ~m for p, m in zip(picture, clip.ignored)]
    return {
        "valid": [torch.from_numpy(v) for v in valid],
        "picture": [torch.from_numpy(p) for p in picture],
    }


def pack(
    video: Video,
    item: ClipItem,
    clip: Clip,
    frames: list[int],
    *,
    dataset: str,
    pseudo: bool,
    flat: bool,
) -> dict[str, Any]:
    """Return the training item of a finished clip."""
    images = [torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))) for i in clip.images]
    instances = [to_instances(o, clip.size) for o in clip.objects]
    out: dict[str, Any] = {
        "image": images,
        "instances": instances,
        "video_id": video["video_id"],
        "frame_indices": frames,
        "dataset": dataset,
        "height": video["height"],
        "width": video["width"],
        "object_id": item.object_id,
        "pseudo": pseudo,
    }
    out.update(_maps(clip))
    if flat:
        out.update(image=images[0], instances=instances[0], image_id=video["video_id"])
        out.update({name: out[name][0] for name in ("valid", "picture") if name in out})
    return out
