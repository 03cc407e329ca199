"""Videos made of annotated stills: real images and real edges, in motion.

A scene pans over one still, whose own instances are objects, and moves cut-outs of other stills
before it: they turn, scale, bend and occlude each other, the light changes, and frames are blurred,
noisy and compressed as video is. Everything follows from a seed. Ours, from no paper.

A data set is named by where its stills are, options behind:
``still_scenes:instances.json:images[:split=train][:task=vos][:videos=400][:size=288x512]``.
Every sixth still is held out for ``split=val``. With ``objects=main`` only what a person would call
the subject of a picture is an object: of a still's instances the large ones, and larger cut-outs.
``protocol=2016`` scores the union of the objects, as DAVIS 2016 does.

Letters: N objects, T frames of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np

from ...structures import FrameSource, InputError
from ..catalog.registration import dataset_root, register_dataset, register_name_pattern
from ..formats.label_maps import VOID, LabelMapAnnotations
from .still_pool import Still, StillPool, still_pool

MIN_SHARE = 0.008  # of the still, for an instance that stays where it is
MAIN_SHARE = 0.02  # of the still, for a subject of it
# Of the largest instance's area: a subject has more than the one, the background less than the
# other; nobody can say what lies in between, and nothing is learned of it.
MAIN_RATIO, MINOR_RATIO = 0.3, 0.1
MOST_OF_FRAME = 0.35  # a subject has surroundings
_VAL_SEEDS = 70_000_000
_EVALUATORS = {"vos": "davis_semi", "uvos": "davis_unsup"}
_CHOICES = {
    "split": ("train", "val"),
    "task": tuple(_EVALUATORS),
    "objects": ("all", "main"),
    "protocol": ("2016",),
}


@dataclass(frozen=True)
class SceneOptions:
    """Options of a set of scenes.

    Attributes:
        json_file, images: stills in the COCO format and their folder.
        split: "train" or "val", of the stills and of the seeds.
        task: "vos" (masks of frame 0 are given) or "uvos".
        videos, length: number of videos and of their frames.
        size: (H, W).
        objects: "all" instances, or the "main" ones: the subjects of pictures.
        protocol: "2016" scores the union of the objects; "" each, by the protocol of the task.
    """

    json_file: str
    images: str
    split: str = "train"
    task: str = "vos"
    videos: int = 400
    length: int = 20
    size: tuple[int, int] = (288, 512)
    objects: str = "all"
    protocol: str = ""


def parse_name(name: str) -> SceneOptions:
    """Read a data set's name.

    Raises:
        InputError: no such option or value.
    """
    kind, *parts = name.split(":")
    places = [p for p in parts if "=" not in p]
    form = "write still_scenes:JSON:IMAGES, then options such as :split=val:videos=50:size=288x512"
    if kind != "still_scenes" or len(places) != 2 or not all(places):
        raise InputError(f"data set {name!r}: {form}")
    options = SceneOptions(*places)
    for part in parts[2:]:
        key, _, value = part.partition("=")
        try:
            if key == "size":
                h, w = (int(n) for n in value.split("x"))
                options = replace(options, size=(h, w))
            elif key in ("videos", "length") and int(value) > 0:
                options = replace(options, **{key: int(value)})
            elif value in _CHOICES.get(key, ()):
                options = replace(options, **{key: value})
            else:
                raise ValueError
        except ValueError:
            raise InputError(f"data set {name!r}: {part!r} is no option; {form}") from None
    return options


# Scenes ------------------------------------------------------------------------------------------


class PastedObject:
    """A cut-out on its path before the ground.

    Args:
        sides: least and greatest square root of its area, as shares of H.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        patch: np.ndarray,
        alpha: np.ndarray,
        size: tuple[int, int],
        *,
        sides: tuple[float, float] = (0.12, 0.6),
    ) -> None:
        height, width = size
        if rng.random() < 0.5:
            patch, alpha = patch[:, ::-1], alpha[:, ::-1]
        side = np.sqrt(float((alpha > 127).sum()))
        wanted = height * np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1])))
        scale = min(wanted / side, 2.5)
        fx, fy = scale * np.exp(rng.normal(0, 0.08, 2))
        flag = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        patch, alpha = (cv2.resize(np.ascontiguousarray(p), None, fx=fx, fy=fy, interpolation=flag)
                        for p in (patch, alpha))  # fmt: skip
        gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))
        self.patch = np.clip(patch * gain, 0, 255).astype(np.uint8)
        self.alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 1.1))
        unit = height / 240
        self.centre = rng.uniform(0.15, 0.85, 2) * [width, height]
        self.speed, self.sway = rng.normal(0, 2.0, 2) * unit, rng.uniform(0, 9, 2) * unit
        self.angle, self.spin = rng.normal(0, 0.25), rng.normal(0, 0.025)
        self.growth, self.shear = rng.normal(0, 0.015), rng.normal(0, 0.15)
        self.phase, self.period = rng.uniform(0, 6.28, 6), rng.uniform(8, 30, 6)
        self.bend = rng.uniform(0, 0.07) * max(alpha.shape) * (rng.random() < 0.8)
        self.knots = rng.normal(0, 1, (2, 2, 4, 4)).astype(np.float32)
        self.light = rng.uniform(0, 0.12)

    def wave(self, k: int, t: float) -> float:
        return float(np.sin(6.283 * t / self.period[k] + self.phase[k]))

    def matrix(self, t: float, middle: float) -> np.ndarray:
        """Return the map (2, 3) from the patch to the frame."""
        grow = np.exp(self.growth * (t - middle))
        angle = self.angle + self.spin * t + 0.1 * self.wave(2, t)
        c, s = np.cos(angle) * grow, np.sin(angle) * grow
        linear = np.array([[c, s], [-s, c]]) @ np.array([[1, self.shear * self.wave(3, t)], [0, 1]])
        centre = self.centre + self.speed * (t - middle)
        centre = centre + self.sway * [self.wave(0, t), self.wave(1, t)]
        h, w = self.alpha.shape
        return np.column_stack([linear, centre - linear @ [w / 2, h / 2]])

    def bent(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return patch and alpha, deformed by a smooth field that changes with time."""
        if self.bend < 1:
            return self.patch, self.alpha
        h, w = self.alpha.shape
        knots = self.knots[0] * self.wave(4, t) + self.knots[1] * self.wave(5, t)
        x, y = (cv2.resize(k * (0.6 * self.bend), (w, h), interpolation=cv2.INTER_CUBIC)
                for k in knots)  # fmt: skip
        x += np.arange(w, dtype=np.float32)
        y += np.arange(h, dtype=np.float32)[:, None]
        patch = cv2.remap(self.patch, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return patch, cv2.remap(self.alpha, x, y, cv2.INTER_LINEAR)


class StillScene:
    """One video; ids are 1..N, pasted objects last and in paint order.

    Args:
        objects: see ``SceneOptions``.
    """

    def __init__(
        self,
        seed: int,
        pool: StillPool,
        size: tuple[int, int],
        length: int,
        *,
        objects: str = "all",
    ) -> None:
        rng = np.random.default_rng(seed)
        self.main = objects == "main"
        self.seed, self.size, self.middle = seed, size, length / 2
        height, width = size
        self._ground(rng, pool)
        shares = [0.3, 0.4, 0.2, 0.1] if self.main else [0.1, 0.4, 0.3, 0.2]
        count = int(rng.choice([0, 1, 2, 3], p=shares))
        if self.native == 0:
            count = max(count, 1)
        self.pasted = []
        for _ in range(count):
            patch, alpha = pool.cutout(int(rng.integers(len(pool.cutouts))))
            sides = (0.2, 0.5) if self.main else (0.12, 0.6)
            self.pasted.append(PastedObject(rng, patch, alpha, size, sides=sides))
            if rng.random() < 0.15:  # one of the same kind
                self.pasted.append(PastedObject(rng, patch, alpha, size, sides=sides))
        self.count = self.native + len(self.pasted)
        unit = height / 240
        self.pan, self.shake = rng.normal(0, 1.5, 2) * unit, rng.uniform(0, 3, 2) * unit
        self.zoom, self.roll, self.turn = rng.normal(0, [0.007, 0.006, 0.15])
        self.tilt = rng.normal(0, 0.008, 2) / 512
        self.phase, self.period = rng.uniform(0, 6.28, 4), rng.uniform(6, 25, 4)
        self.light, self.tint = rng.uniform(0, 0.12), np.exp(rng.normal(0, 0.07, 3))
        self.gamma = np.exp(rng.normal(0, 0.2))
        self.soft = rng.choice([0.0, 0.0, 0.6, 1.0, 1.6])
        self.smear = int(rng.choice([0, 0, 0, 5, 9]))
        self.smear_angle = rng.uniform(0, np.pi)
        self.noise = rng.choice([0.0, 0.0, 3.0, 6.0])
        self.quality = int(rng.choice([0, 30, 50, 70, 90]))

    def _ground(self, rng: np.random.Generator, pool: StillPool) -> None:
        """Draw the still that the camera pans over, and which of its instances are objects."""
        still = pool.still(int(rng.integers(len(pool.videos))))
        for _ in range(20 if self.main else 0):
            if self._share_of_frame(still) <= MOST_OF_FRAME:
                break
            still = pool.still(int(rng.integers(len(pool.videos))))
        image, masks = still.image, still.masks
        areas, frame = masks.sum((1, 2)), image.shape[0] * image.shape[1]
        labels = np.zeros(image.shape[:2], np.uint8)
        kept = areas > MIN_SHARE * frame
        if self.main and len(masks):
            largest = areas.max()
            kept = areas > max(MAIN_SHARE * frame, MAIN_RATIO * largest)
            labels[masks[~kept & (areas > MINOR_RATIO * largest)].any(0)] = VOID
        masks = list(masks[kept][:6])
        if len(masks) > 1 and rng.random() < 0.4:  # a rider and what is ridden: one object
            masks = _joined(masks, int(rng.integers(len(masks))))
        order = np.argsort([-int(m.sum()) for m in masks])  # small ones on top
        for k in order:
            labels[masks[k] > 0] = k + 1
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        height, width = self.size
        cover = max(height / image.shape[0], width / image.shape[1])
        cover *= rng.uniform(1.02, 1.4) if self.main else rng.uniform(1.05, 1.7)
        flag = cv2.INTER_AREA if cover < 1 else cv2.INTER_LINEAR
        self.ground = cv2.resize(
            np.ascontiguousarray(image), None, fx=cover, fy=cover, interpolation=flag
        )
        self.labels = cv2.resize(
            np.ascontiguousarray(labels),
            self.ground.shape[1::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        self.native = len(masks)
        self.start = rng.uniform(0.35, 0.65, 2)
        if masks and rng.random() < 0.7:  # look at an object
            at = np.argwhere(self.labels == 1 + int(rng.integers(len(masks))))
            if len(at):
                self.start = at.mean(0)[::-1] / self.ground.shape[1::-1]

    def _share_of_frame(self, still: Still) -> float:
        """Return how much of the frame the largest instance fills from as far as one can look."""
        scale = max(n / m for n, m in zip(self.size, still.image.shape))
        largest = int(still.masks.sum((1, 2)).max(initial=0))
        return largest * scale**2 / (self.size[0] * self.size[1])

    def _camera(self, t: float) -> np.ndarray:
        """Return the homography (3, 3) from the ground to the frame at time t."""
        height, width = self.size
        ground = np.array(self.ground.shape[1::-1], float)
        wave = np.sin(6.283 * t / self.period + self.phase)
        zoom, roll = np.exp(self.zoom * (t - self.middle)), self.turn + self.roll * t
        c, s = np.cos(roll) * zoom, np.sin(roll) * zoom
        half = np.array([width, height]) / 2
        room = np.maximum(ground / 2 - half, 0)
        look = np.clip(self.start * ground, ground / 2 - room, ground / 2 + room)
        look = look - self.pan * (t - self.middle) - self.shake * wave[:2]
        to_centre = np.array([[1, 0, -look[0]], [0, 1, -look[1]], [0, 0, 1]])
        tilt = np.array([[c, s, 0], [-s, c, 0], [*(self.tilt * wave[2:]), 1]])
        return np.array([[1, 0, half[0]], [0, 1, half[1]], [0, 0, 1]]) @ tilt @ to_centre

    def label_map(self, t: float) -> np.ndarray:
        """Return the ids at time t, uint8 (H, W)."""
        size = self.size[::-1]
        labels = cv2.warpPerspective(self.labels, self._camera(t), size, flags=cv2.INTER_NEAREST)
        for k, thing in enumerate(self.pasted):
            alpha = cv2.warpAffine(thing.bent(t)[1], thing.matrix(t, self.middle), size)
            labels[alpha > 127] = self.native + k + 1
        return labels

    def frame(self, t: float) -> np.ndarray:
        """Return the BGR image at time t, uint8 (H, W, 3)."""
        size = self.size[::-1]
        image = cv2.warpPerspective(
            self.ground, self._camera(t), size, borderMode=cv2.BORDER_REFLECT
        ).astype(np.float32)
        for thing in self.pasted:
            patch, alpha = thing.bent(t)
            matrix = thing.matrix(t, self.middle)
            over = cv2.warpAffine(patch, matrix, size, borderMode=cv2.BORDER_REPLICATE)
            over = over * np.float32(1 + thing.light * thing.wave(2, t))
            share = cv2.warpAffine(alpha, matrix, size)[..., None] / np.float32(255)
            image += (over - image) * share
        return self._camera_look(image, t)

    def _camera_look(self, image: np.ndarray, t: float) -> np.ndarray:
        """Return a frame as a camera would have stored it."""
        light = self.tint * (1 + self.light * np.sin(6.283 * t / 17 + self.phase[0]))
        image = 255 * np.clip(image * (light / 255), 0, 1) ** np.float32(self.gamma)
        image = image.astype(np.float32)
        if self.soft:
            image = cv2.GaussianBlur(image, (0, 0), self.soft)
        if self.smear:
            kernel = np.zeros((self.smear, self.smear), np.float32)
            kernel[self.smear // 2] = 1 / self.smear
            spin = cv2.getRotationMatrix2D(
                (self.smear // 2, self.smear // 2), np.rad2deg(self.smear_angle), 1
            )
            kernel = cv2.warpAffine(kernel, spin, kernel.shape)
            image = cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6))
        if self.noise:
            noise = np.random.default_rng([self.seed, int(t)]).standard_normal(
                image.shape, np.float32
            )
            image += self.noise * noise
        image = np.clip(image, 0, 255).astype(np.uint8)
        if self.quality:
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return image


def _joined(masks: list[np.ndarray], k: int) -> list[np.ndarray]:
    """Join mask k with one that it touches, if there is one."""
    grown = cv2.dilate(masks[k], np.ones((7, 7), np.uint8))
    for other in range(len(masks)):
        if other != k and (grown & masks[other]).any():
            both = masks[k] | masks[other]
            return [both, *(m for n, m in enumerate(masks) if n not in (k, other))]
    return masks


@lru_cache(maxsize=128)
def still_scene(options: SceneOptions, seed: int, root: str) -> StillScene:
    """Return the scene of a seed; cached."""
    pool = still_pool(options.json_file, options.images, options.split, root)
    return StillScene(seed, pool, options.size, options.length, objects=options.objects)


# The data set ------------------------------------------------------------------------------------


class SceneSource(FrameSource):
    """Renders the frames of one scene."""

    def __init__(self, options: SceneOptions, seed: int, image_format: str = "BGR") -> None:
        super().__init__(image_format=image_format, decode_ahead=0)
        self.options, self.seed = options, seed

    @property
    def size(self) -> tuple[int, int]:
        return self.options.size

    @property
    def length(self) -> int:
        return self.options.length

    def read(self, index: int) -> np.ndarray:
        image = still_scene(self.options, self.seed, str(dataset_root())).frame(index)
        return image if self.image_format == "BGR" else np.ascontiguousarray(image[..., ::-1])


class SceneLabels(LabelMapAnnotations):
    """The visible ids of a scene, drawn on demand."""

    def __init__(self, options: SceneOptions, seed: int, count: int) -> None:
        super().__init__(options.length, dict.fromkeys(range(1, count + 1), 0))
        self.options, self.seed = options, seed

    def label_map(self, t: int) -> np.ndarray:
        return still_scene(self.options, self.seed, str(dataset_root())).label_map(t)


def load_scenes(options: SceneOptions) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the videos, and the metadata with the ground truth in memory."""
    start = _VAL_SEEDS if options.split == "val" else 0
    videos = [_video(options, k, start + k) for k in range(options.videos)]

    def truth() -> dict[str, np.ndarray]:
        return {
            v["name"]: np.stack([v["annotations"].label_map(t) for t in range(options.length)])
            for v in videos
        }

    return videos, {"thing_classes": ["object"], "ground_truth_fn": lru_cache(maxsize=1)(truth)}


def _video(options: SceneOptions, k: int, seed: int) -> dict[str, Any]:
    scene = still_scene(options, seed, str(dataset_root()))
    labels = SceneLabels(options, seed, scene.count)
    name = f"scene_{options.split}_{k:04d}"
    present = sorted({int(i) for i in np.unique(scene.label_map(0))} - {0, VOID})
    return {
        "video_id": name,
        "name": name,
        "source": partial(SceneSource, options, seed),
        "height": options.size[0],
        "width": options.size[1],
        "length": options.length,
        "objects": [{"id": i, "category_id": 0} for i in labels.ids],
        "annotations": labels,
        "starts": {0: present} if present else {},
    }


def register_still_scenes(name: str) -> bool:
    """Register the set that a name describes; False if the name is taken."""
    options = parse_name(name)
    return register_dataset(
        name,
        partial(load_scenes, options),
        evaluator_type="davis_2016" if options.protocol else _EVALUATORS[options.task],
        task=options.task,
    )


register_name_pattern("still_scenes:", register_still_scenes)
