"""The moving shapes of a synthetic video: who is there, where, and how it looks at time t.

Everything is a closed function of (seed, t): frame t does not depend on the video's length, and
frames can be made in any order. The legacy ``RandomState`` is used because its stream is frozen
for all numpy versions; geometry is rounded to fixed point before it is drawn, so that pictures do
not depend on the last bit of a platform's sine.

Letters: N objects, V vertices of a polygon. Lengths are in pixels of a 96 x 160 frame, scaled by
``unit`` for other sizes; times are in frames, angles in radians.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .polygon_fill import FilledPolygon, fill_polygons

CLASSES = ("disc", "box", "triangle", "star")
VERTICES = 60
SUBPIXEL = 4  # bits after the binary point of polygon vertices
SPRITE = 128  # side of an object's texture, which covers [-SPRITE_REACH, SPRITE_REACH]^2
SPRITE_REACH = 1.4
TEXTURE_VARIANTS = 3
BACKGROUNDS = 8
MIN_FIRST_PIXELS = 40  # visible pixels that every object has in frame 0
MIN_OCCLUSION = 0.25  # share of its pixels that one object loses at each arranged meeting
_ATTEMPTS = 200


@dataclass(frozen=True)
class SceneOptions:
    """What a synthetic video looks like.

    Attributes:
        size: (H, W).
        difficulty: "easy" (a class has a shape, a texture and a band of hues of its own) or "hard"
        (hues
            are random).
        min_objects, max_objects: range of N, at least 2 since two objects are always twins.
    """

    size: tuple[int, int] = (96, 160)
    difficulty: str = "easy"
    min_objects: int = 3
    max_objects: int = 4

    @property
    def unit(self) -> float:
        return min(self.size[0] / 96, self.size[1] / 160)


@dataclass(frozen=True)
class Wave:
    """``amplitude * sin(2 pi t / period + phase)`` for N objects at once, arrays (N,)."""

    amplitude: np.ndarray
    period: np.ndarray
    phase: np.ndarray

    def __call__(self, t: float) -> np.ndarray:
        return self.amplitude * np.sin(2 * np.pi * t / self.period + self.phase)


def unit_shapes() -> np.ndarray:
    """Return the radius of each class's outline at V equal angles, (len(CLASSES), V)."""
    angle = 2 * np.pi * np.arange(VERTICES) / VERTICES
    disc = np.full(VERTICES, 0.98)
    box = 0.86 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    third = 2 * np.pi / 3
    triangle = 0.64 / np.cos((angle + third / 2) % third - third / 2)
    # A star's side is a straight line between an outer and an inner corner.
    fifth = 2 * np.pi / 5
    outer, inner = 1.28, 0.56
    a = np.minimum(angle % fifth, fifth - angle % fifth)
    half = fifth / 2
    star = outer * inner * np.sin(half) / (outer * np.sin(a) + inner * np.sin(half - a))
    return np.stack([disc, box, triangle, star])


_SHAPES = unit_shapes()
_ANGLES = 2 * np.pi * np.arange(VERTICES) / VERTICES
_COS, _SIN = np.cos(_ANGLES), np.sin(_ANGLES)
_LOBES = np.cos(np.arange(4)[:, None] * _ANGLES)  # by their number


class Scene:
    """One synthetic video: the objects' looks and paths, and the background's.

    Ids are 1..N in paint order, so a higher id lies over a lower one. Two objects (``twins``) share
    class, texture and nearly colour and size. Two pairs of objects are made to meet; in most scenes
    one object leaves the frame and comes back.

    Args:
        seed: of the video.
    """

    def __init__(self, seed: int, options: SceneOptions = SceneOptions()) -> None:
        self.seed = seed
        self.options = options
        self._posed: tuple | None = None
        self.colour_tables: dict[int, np.ndarray] = {}  # filled by the renderer
        random = np.random.RandomState(seed)
        for self._attempt in range(_ATTEMPTS):
            self._draw(random)
            self._posed = None
            if self._meets() and self._starts_visible():
                break
        else:
            raise AssertionError(f"no valid scene for seed {seed}: {options}")

    # Parameters ----------------------------------------------------------------------------------

    def _draw(self, random: np.random.RandomState) -> None:
        options = self.options
        n = self.count = int(random.randint(options.min_objects, options.max_objects + 1))
        order = random.permutation(n)
        self.twins = (int(order[0]), int(order[1]))
        self.categories = random.randint(0, len(CLASSES), n)
        self.categories[self.twins[1]] = self.categories[self.twins[0]]
        self.variants = random.randint(0, TEXTURE_VARIANTS, n)
        self.variants[self.twins[1]] = self.variants[self.twins[0]]
        self.radius = random.uniform(11.0, 22.0, n) * options.unit
        self.radius[self.twins[1]] = self.radius[self.twins[0]] * random.uniform(0.9, 1.1)
        self.stretch = random.uniform(0.82, 1.22, n)
        self.colours = self._draw_colours(random)
        self._draw_motion(random)
        self.background = int(random.randint(0, BACKGROUNDS))
        self.mirrored = random.randint(0, 2, 2)
        self.tint = random.randint(170, 257, 3)
        self.pan_start = random.randint(0, 1 << 16, 2)
        self.pan_speed = random.uniform(-1.8, 1.8, 2) * options.unit

    def _draw_colours(self, random: np.random.RandomState) -> np.ndarray:
        """Return two BGR colours per object, int (N, 2, 3): its dark and its light."""
        n = self.count
        hue = random.uniform(0, 1, n)
        if self.options.difficulty == "easy":
            hue = (self.categories + 0.5 * (hue - 0.5)) / len(CLASSES)
        saturation = random.uniform(0.6, 0.9, n)
        value = random.uniform(0.78, 0.94, n)
        other = self.twins[1]
        hue[other] = hue[self.twins[0]] + random.uniform(-0.012, 0.012)
        saturation[other] = saturation[self.twins[0]] * random.uniform(0.95, 1.05)
        value[other] = value[self.twins[0]]
        colours = []
        for h, s, v in zip(hue, saturation, value):
            pair = [(h % 1, min(s * 1.1, 1), v * 0.48), (h % 1, s * 0.7, v)]
            colours.append(
                [[round(255 * c) for c in colorsys.hsv_to_rgb(*hsv)[::-1]] for hsv in pair]
            )
        return np.array(colours, np.int64)

    def _draw_motion(self, random: np.random.RandomState) -> None:
        n, unit = self.count, self.options.unit
        height, width = self.options.size

        def wave(speed: tuple[float, float], period: tuple[float, float]) -> Wave:
            p = random.uniform(*period, n)
            amplitude = random.uniform(*speed, n) * p / (2 * np.pi)
            return Wave(amplitude, p, random.uniform(0, 2 * np.pi, n))

        self.sway = [wave((0.8 * unit, 3.6 * unit), (22, 48)) for _ in range(2)]  # x, y
        self.turn = wave((0.02, 0.10), (20, 50))
        self.spin = random.uniform(-0.06, 0.06, n)
        self.angle = random.uniform(0, 2 * np.pi, n)
        self.growth = wave((0.005, 0.035), (14, 30))
        self.wobble = Wave(
            random.uniform(0.03, 0.10, n), random.uniform(8, 20, n), random.uniform(0, 6.28, n)
        )
        self.lobes = random.randint(2, 4, n)
        margin = 0.8 * self.radius
        self.centre = np.stack(
            [random.uniform(margin, width - margin), random.uniform(margin, height - margin)], 1
        )
        self.meetings: list[tuple[int, int, float]] = []
        chain = random.permutation(n)
        for a, b in zip(chain[:-1:2], chain[1::2]):
            self._meet(int(a), int(b), float(random.randint(4, 15)), random)
        in_meeting = {i for a, b, _ in self.meetings for i in (a, b)}
        free = [i for i in range(n) if i not in in_meeting] or [int(chain[-1])]
        self.leaver = -1
        if random.random_sample() < 0.7:
            self._send_away(free[0], random)

    def _meet(self, a: int, b: int, t: float, random: np.random.RandomState) -> None:
        """Move b's path so that it runs close to a at time t."""
        angle = random.uniform(0, 2 * np.pi)
        distance = 0.45 * (self.radius[a] + self.radius[b])
        offset = distance * np.array([np.cos(angle), np.sin(angle)])
        sway = np.stack([wave(t) for wave in self.sway], 1)
        self.centre[b] = self.centre[a] + sway[a] + offset - sway[b]
        self.meetings.append((a, b, t))

    def _send_away(self, i: int, random: np.random.RandomState) -> None:
        """Let object i swing across the left or right border: out for a third of its period."""
        self.leaver = i
        radius, width = self.radius[i], self.options.size[1]
        right = int(random.randint(0, 2))
        self.centre[i, 0] = width + 0.15 * radius if right else -0.15 * radius
        x = self.sway[0]
        x.amplitude[i] = 1.75 * radius
        x.period[i] = random.uniform(16, 22)
        # At t = 0 it is inside and on its way out.
        x.phase[i] = (1.25 if right else 0.25) * np.pi + random.uniform(0, 0.2) * np.pi
        self.meetings = [m for m in self.meetings if i not in m[:2]]

    def _starts_visible(self) -> bool:
        labels = self.label_map(0)
        need = MIN_FIRST_PIXELS * self.options.unit**2
        return bool((np.bincount(labels.ravel(), minlength=self.count + 1)[1:] >= need).all())

    def _meets(self) -> bool:
        """Tell whether each meeting hides a good part of the lower object, in the frame."""
        for a, b, t in self.meetings:
            apart = [self._gap(a, b, t + dt) for dt in (-8, 8) if t + dt >= 0]
            if max(apart) < 0.2 * (self.radius[a] + self.radius[b]):
                return False  # they would stick together
            low = min(a, b)
            full = self.full_areas(t)[low]
            seen = np.count_nonzero(self.label_map(int(t)) == low + 1)
            if full < MIN_FIRST_PIXELS * self.options.unit**2 or seen > (1 - MIN_OCCLUSION) * full:
                return False
        return True

    def _gap(self, a: int, b: int, t: float) -> float:
        """Return the distance between the rims of two objects at time t, about."""
        centre, _, axes = self.poses(t)
        return float(np.hypot(*(centre[a] - centre[b])) - axes[a].mean() - axes[b].mean())

    # State at time t -----------------------------------------------------------------------------

    def poses(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return centres (N, 2) as x, y, angles (N,), half axes (N, 2) at t; the last is kept."""
        if self._posed is not None and self._posed[0] == t:
            return self._posed[1]
        centre = self.centre + np.stack([wave(t) for wave in self.sway], 1)
        angle = self.angle + self.spin * t + self.turn(t)
        size = self.radius * (1 + self.growth(t))
        axes = size[:, None] * np.stack([self.stretch, 1 / self.stretch], 1)
        self._posed = (t, (centre, angle, axes))
        return self._posed[1]

    def polygons(self, t: float) -> np.ndarray:
        """Return the outlines at time t: int32 (N, V, 2), x and y in 2**-SUBPIXEL pixels."""
        centre, angle, axes = self.poses(t)
        wobble = self.wobble(t)[:, None] * _LOBES[self.lobes]
        radius = _SHAPES[self.categories] * (1 + wobble)
        x = radius * _COS * axes[:, :1]
        y = radius * _SIN * axes[:, 1:]
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        points = np.stack([x * cos - y * sin, x * sin + y * cos], -1) + centre[:, None]
        return np.rint(points * (1 << SUBPIXEL)).astype(np.int32)

    def shapes(self, t: float) -> list[FilledPolygon]:
        """Return the filled outlines at time t in paint order; the last few are kept, because
        an image and its labels are asked for one after the other."""
        return _filled(self, self._attempt, t)

    def label_map(self, t: int) -> np.ndarray:
        """Return the visible ids at time t, uint8 (H, W); 0 is background."""
        labels = np.zeros(self.options.size, np.uint8)
        for i, shape in enumerate(self.shapes(t), 1):
            if (windows := shape.windows(self.options.size)) is not None:
                labels[windows[0]][shape.mask[windows[1]]] = i
        return labels

    def full_areas(self, t: float) -> np.ndarray:
        """Return each object's pixels in the frame if nothing hid it, int64 (N,)."""
        areas = np.zeros(self.count, np.int64)
        for i, shape in enumerate(self.shapes(t)):
            if (windows := shape.windows(self.options.size)) is not None:
                areas[i] = np.count_nonzero(shape.mask[windows[1]])
        return areas

    def texture_maps(self, t: float) -> np.ndarray:
        """Return per object the affine map from pixels to its sprite, int64 (N, 2, 3).

        Row 0 gives the sprite's column, row 1 its row, in units of 2**-16; columns multiply x, y
        and 1.
        """
        centre, angle, axes = self.poses(t)
        scale = SPRITE / (2 * SPRITE_REACH) / axes
        cos, sin = np.cos(angle), np.sin(angle)
        linear = (
            np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1) * scale[:, :, None]
        )
        offset = SPRITE / 2 - np.einsum("nij,nj->ni", linear, centre)
        return np.rint(np.concatenate([linear, offset[:, :, None]], 2) * (1 << 16)).astype(np.int64)

    def pan(self, t: float) -> tuple[int, int]:
        """Return the background's shift (rows, columns) at time t, whole pixels."""
        shift = self.pan_start + np.rint(self.pan_speed * t).astype(np.int64)
        return int(shift[0]), int(shift[1])


@lru_cache(maxsize=16)
def _filled(scene: Scene, attempt: int, t: float) -> list[FilledPolygon]:
    return fill_polygons(scene.polygons(t), SUBPIXEL)
