"""Dead-leaves videos: synthetic material with natural statistics, to train a trunk on.

A scene is a large background of overlapping textured shapes and a few objects cut out of other such
images; all of them move, turn, scale and bend, objects occlude each other, and the light changes.
Objects are no simpler than their background, so that only appearance learned from the reference
frame tells them apart. Everything follows from a seed. Ours, not in the paper.

Letters: N objects, T frames of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np

from ...structures import FrameSource
from ..catalog.registration import register_dataset
from ..formats.label_maps import LabelMapAnnotations

SIZE = (192, 320)
LENGTH = 20
SPRITE = 144  # side of an object's image, pixels
COUNTS = {"train": 400, "val": 50}
MAX_OBJECTS = 4
_VAL_SEEDS = 50_000_000
_TEXTURES = 48
_TEXTURE_SIDE = 256


@lru_cache(maxsize=1)
def _textures() -> np.ndarray:
    """Return grey textures (_TEXTURES, side, side), float32 with mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    side = _TEXTURE_SIDE
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    y, x = np.mgrid[:side, :side].astype(np.float32)
    out = []
    for k in range(_TEXTURES):
        noise = np.fft.fft2(rng.standard_normal((side, side)))
        texture = np.fft.ifft2(noise * frequency ** -rng.uniform(0.3, 2.2)).real
        if k % 3 == 0:  # stripes and checks, bent by the noise
            angle, period = rng.uniform(0, np.pi), rng.uniform(5, 28)
            phase = 2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle))
            bend = 1.5 * texture / texture.std() * rng.uniform(0, 1)
            wave = np.sin(phase + bend)
            if k % 2:
                wave = wave * np.sin(phase.T + bend)
            texture = np.tanh(wave * rng.uniform(1, 6)) + 0.2 * texture / texture.std()
        out.append((texture - texture.mean()) / texture.std())
    return np.stack(out).astype(np.float32)


def blob(rng: np.random.Generator, radius: float, *, points: int = 40) -> np.ndarray:
    """Return a random outline (points, 2) about the origin: an ellipse, polygon or lobed shape."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    kind = rng.integers(3)
    if kind == 0:
        r = np.ones(points)
    elif kind == 1:  # a polygon with few corners
        corners = int(rng.integers(3, 7))
        at = np.sort(rng.uniform(0, 2 * np.pi, corners))
        r = np.interp(angle, at, rng.uniform(0.6, 1.2, corners), period=2 * np.pi)
    else:
        order = np.arange(2, 7)[:, None]
        waves = (
            rng.normal(0, 0.5, (5, 1))
            / order
            * np.cos(order * angle + rng.uniform(0, 6.28, (5, 1)))
        )
        r = np.clip(1 + waves.sum(0), 0.25, 1.8)
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    shape = np.stack([np.cos(angle) * stretch, np.sin(angle) / stretch], 1) * r[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    return radius * shape @ np.array([[c, s], [-s, c]])


def leaves(
    rng: np.random.Generator, size: tuple[int, int], *, count: int, sizes: tuple[float, float]
) -> np.ndarray:
    """Return a dead-leaves image, uint8 (H, W, 3): ``count`` textured shapes over one another.

    Args:
        sizes: smallest and largest radius, pixels; small ones are more frequent.
    """
    height, width = size
    image = np.empty((height, width, 3), np.float32)
    image[:] = _paint(rng, height, width)
    base = _colour(rng, rng.uniform(50, 205), 18)  # the image's own range of colours
    spread = rng.uniform(10, 60)
    radii = sizes[0] * (sizes[1] / sizes[0]) ** (rng.random(count) ** 1.5)
    for radius in np.sort(radii)[::-1] if rng.random() < 0.5 else radii:
        outline = blob(rng, radius) + rng.uniform(0, 1, 2) * [width, height]
        x0, y0 = np.maximum(np.floor(outline.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(outline.max(0)) + 1, [width, height]).astype(int)
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(
            mask, [np.rint((outline - [x0, y0]) * 8).astype(np.int32)], 255, cv2.LINE_AA, 3
        )
        paint = _paint(
            rng, y1 - y0, x1 - x0, colour=base + _colour(rng, rng.normal(0, spread), 0.4 * spread)
        )
        region = image[y0:y1, x0:x1]
        region += (paint - region) * (mask[..., None] / np.float32(255))
    return np.clip(image, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, grey: float, chroma: float) -> np.ndarray:
    """Return a BGR colour about a grey: channels of natural images go together."""
    return grey + rng.normal(0, chroma) * np.array([1, -0.1, -0.9]) + rng.normal(0, chroma / 2, 3)


def _paint(
    rng: np.random.Generator, height: int, width: int, *, colour: np.ndarray | None = None
) -> np.ndarray:
    """Return a textured, shaded patch (height, width, 3), float32."""
    colour = _colour(rng, rng.uniform(30, 225), 20) if colour is None else colour
    texture = _textures()[rng.integers(_TEXTURES)]
    zoom = 2 ** rng.uniform(-1, 1)
    tall, wide = int(height * zoom) + 1, int(width * zoom) + 1
    tall, wide = min(tall, _TEXTURE_SIDE), min(wide, _TEXTURE_SIDE)
    top, left = (rng.integers(_TEXTURE_SIDE - n + 1) for n in (tall, wide))
    patch = cv2.resize(texture[top : top + tall, left : left + wide], (width, height))
    contrast = rng.normal(0, 1, 3) * 0.2 + 1
    contrast *= rng.choice([0.0, 6.0, 14.0, 28.0]) * rng.uniform(0.6, 1.4)
    slope = rng.normal(0, 12, 2)
    shade = np.add.outer(
        np.linspace(-1, 1, height) * slope[0], np.linspace(-1, 1, width) * slope[1]
    )
    return (colour + patch[..., None] * contrast + shade[..., None]).astype(np.float32)


class LeafScene:
    """One video: images and paths, drawn from a seed.

    Ids are 1..N in paint order, a later one over an earlier.
    """

    def __init__(self, seed: int, size: tuple[int, int] = SIZE) -> None:
        rng = np.random.default_rng(seed)
        self.size = size
        height, width = size
        scale = height / SIZE[0]
        self.count = n = _draw_count(rng)
        canvas = (int(1.5 * height), int(1.5 * width))
        self.ground = leaves(
            rng, canvas, count=int(rng.integers(30, 160)), sizes=(4 * scale, 90 * scale)
        )
        if rng.random() < 0.3:
            self.ground = cv2.GaussianBlur(self.ground, (0, 0), rng.uniform(0.8, 3.0))
        self.sprites = [self._sprite(rng) for _ in range(n)]
        if n > 1 and rng.random() < 0.3:  # two of a kind
            self.sprites[-1] = (self.sprites[0][0], self.sprites[-1][1])
        self.radius = np.exp(rng.uniform(np.log(0.12), np.log(0.45), n)) * height
        self.centre = rng.uniform(0.15, 0.85, (n, 2)) * [width, height]
        self.speed = rng.normal(0, 1.6, (n, 2)) * scale
        self.sway = rng.uniform(0, 8, (n, 2)) * scale
        self.angle, self.spin = rng.uniform(0, 6.28, n), rng.normal(0, 0.035, n)
        self.growth, self.shear = rng.normal(0, 0.012, n), rng.normal(0, 0.12, n)
        self.bend = rng.uniform(0, 7, n)
        self.phase, self.period = rng.uniform(0, 6.28, (n, 4)), rng.uniform(9, 30, (n, 4))
        self.pan, self.pan_start = rng.normal(0, 1.3, 2) * scale, rng.uniform(0.3, 0.7, 2)
        self.zoom, self.roll = rng.normal(0, 0.006), rng.normal(0, 0.006)
        self.light, self.blur = rng.uniform(0, 0.12), rng.choice([0.0, 0.0, 0.6, 1.0])
        self.tint = rng.uniform(0.85, 1.15, 3)

    def _sprite(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return an object's image (SPRITE, SPRITE, 3) and alpha (SPRITE, SPRITE), uint8."""
        few = int(rng.choice([1, 4, 12, 30]))
        image = leaves(rng, (SPRITE, SPRITE), count=few, sizes=(6, 60))
        alpha = np.zeros((SPRITE, SPRITE), np.uint8)
        parts = int(rng.integers(1, 5))
        for _ in range(parts):
            radius = SPRITE * (0.4 if parts == 1 else rng.uniform(0.14, 0.3))
            at = SPRITE / 2 + (0 if parts == 1 else rng.uniform(-0.2, 0.2, 2) * SPRITE)
            outline = blob(rng, radius) + at
            cv2.fillPoly(alpha, [np.rint(outline * 8).astype(np.int32)], 255, cv2.LINE_AA, 3)
        return image, alpha

    def _wave(self, k: int, which: int, t: float) -> float:
        return float(np.sin(2 * np.pi * t / self.period[k, which] + self.phase[k, which]))

    def _matrix(self, k: int, t: float) -> np.ndarray:
        """Return the map (2, 3) from object k's image to the frame at time t."""
        size = self.radius[k] / (0.4 * SPRITE) * np.exp(self.growth[k] * t)
        angle = self.angle[k] + self.spin[k] * t + 0.15 * self._wave(k, 2, t)
        shear = self.shear[k] * self._wave(k, 3, t)
        c, s = np.cos(angle) * size, np.sin(angle) * size
        linear = np.array([[c, s], [-s, c]]) @ np.array([[1, shear], [0, 1]])
        sway = self.sway[k] * [self._wave(k, 0, t), self._wave(k, 1, t)]
        centre = self.centre[k] + self.speed[k] * (t - LENGTH / 2) + sway
        return np.column_stack([linear, centre - linear @ [SPRITE / 2, SPRITE / 2]])

    def _bent(self, k: int, t: float, image: np.ndarray) -> np.ndarray:
        """Bend object k's image by a slow wave."""
        if self.bend[k] < 1:
            return image
        ramp = np.arange(SPRITE, dtype=np.float32)
        dx = self.bend[k] * np.sin(ramp / 24 + 6.28 * t / self.period[k, 0] + self.phase[k, 1])
        x = np.tile(ramp, (SPRITE, 1)) + dx[:, None].astype(np.float32)
        y = np.tile(ramp[:, None], (1, SPRITE))
        return cv2.remap(image, x, y, cv2.INTER_LINEAR)

    def _alpha(self, k: int, t: float) -> np.ndarray:
        alpha = self._bent(k, t, self.sprites[k][1])
        return cv2.warpAffine(alpha, self._matrix(k, t), self.size[::-1])

    def label_map(self, t: float) -> np.ndarray:
        """Return the ids at time t, uint8 (H, W)."""
        labels = np.zeros(self.size, np.uint8)
        for k in range(self.count):
            labels[self._alpha(k, t) > 127] = k + 1
        return labels

    def frame(self, t: float) -> np.ndarray:
        """Return the BGR image at time t, uint8 (H, W, 3)."""
        height, width = self.size
        ground = np.array(self.ground.shape[1::-1], float)
        zoom, roll = np.exp(self.zoom * t), self.roll * t
        c, s = np.cos(roll) * zoom, np.sin(roll) * zoom
        linear = np.array([[c, s], [-s, c]])
        source = self.pan_start * (ground - [width, height]) + np.array([width, height]) / 2
        shift = np.array([width, height]) / 2 + self.pan * t - linear @ source
        image = cv2.warpAffine(
            self.ground,
            np.column_stack([linear, shift]),
            (width, height),
            borderMode=cv2.BORDER_REFLECT,
        ).astype(np.float32)
        for k in range(self.count):
            over = cv2.warpAffine(
                self._bent(k, t, self.sprites[k][0]),
                self._matrix(k, t),
                (width, height),
                borderMode=cv2.BORDER_REPLICATE,
            )
            image += (over - image) * (self._alpha(k, t)[..., None] / np.float32(255))
        image *= self.tint * (1 + self.light * np.sin(6.28 * t / 17 + self.phase[0, 0]))
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        return np.clip(image, 0, 255).astype(np.uint8)


def _draw_count(rng: np.random.Generator) -> int:
    """Draw N; the first thing a scene draws, so that N is known without making the scene."""
    return int(rng.integers(1, MAX_OBJECTS + 1))


@lru_cache(maxsize=512)
def leaf_scene(seed: int) -> LeafScene:
    """Return the scene of a seed; cached."""
    return LeafScene(seed)


class LeafSource(FrameSource):
    """Renders the frames of one scene."""

    def __init__(self, seed: int, image_format: str = "BGR") -> None:
        super().__init__(image_format=image_format, decode_ahead=0)
        self.seed = seed

    @property
    def size(self) -> tuple[int, int]:
        return SIZE

    @property
    def length(self) -> int:
        return LENGTH

    def read(self, index: int) -> np.ndarray:
        image = leaf_scene(self.seed).frame(index)
        return image if self.image_format == "BGR" else np.ascontiguousarray(image[..., ::-1])


class LeafLabels(LabelMapAnnotations):
    """The visible ids of a scene, drawn on demand."""

    def __init__(self, seed: int) -> None:
        count = _draw_count(np.random.default_rng(seed))
        super().__init__(LENGTH, dict.fromkeys(range(1, count + 1), 0))
        self.seed = seed

    def label_map(self, t: int) -> np.ndarray:
        return leaf_scene(self.seed).label_map(t)


def load_leaves(split: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the videos of a split, and the metadata with the ground truth in memory."""
    start = _VAL_SEEDS if split == "val" else 0
    videos = [_video(f"leaves_{split}_{k:04d}", start + k) for k in range(COUNTS[split])]

    def truth() -> dict[str, np.ndarray]:
        return {
            v["name"]: np.stack([v["annotations"].label_map(t) for t in range(LENGTH)])
            for v in videos
        }

    return videos, {"thing_classes": ["object"], "ground_truth_fn": lru_cache(maxsize=1)(truth)}


def _video(name: str, seed: int) -> dict[str, Any]:
    labels = LeafLabels(seed)
    make: Callable[[str], FrameSource] = partial(LeafSource, seed)
    return {
        "video_id": name,
        "name": name,
        "source": make,
        "height": SIZE[0],
        "width": SIZE[1],
        "length": LENGTH,
        "objects": [{"id": i, "category_id": 0} for i in labels.ids],
        "annotations": labels,
        "starts": {0: labels.ids},
    }


def register_dead_leaves() -> None:
    """Register ``dead_leaves_train`` and ``dead_leaves_val``."""
    for split in COUNTS:
        register_dataset(
            f"dead_leaves_{split}",
            partial(load_leaves, split),
            evaluator_type="davis_semi",
            task="vos",
        )
