"""What a drawing is made of: masks in any form, and the image that is drawn on.

Shapes: H, W the image's height and width in pixels. matplotlib and OpenCV are imported on first
use.
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BitMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager


class GenericMask:
    """A mask given as polygons, RLE or a bitmap, in whichever form is asked for.

    Raises ValueError for an RLE or bitmap of another size than (height, width).
    """

    def __init__(self, mask_or_polygons, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._mask: np.ndarray | None = None
        self._polygons: list[np.ndarray] | None = None
        self._has_holes: bool | None = None
        m = mask_or_polygons
        if isinstance(m, dict):
            if isinstance(m["counts"], list):
                m = mask_util.frPyObjects(m, *m["size"])
            m = mask_util.decode(m)
        if isinstance(m, list):
            self._polygons = [np.asarray(p).reshape(-1) for p in m]
            self._has_holes = False
            return
        m = np.asarray(m)
        if m.shape != (height, width):
            raise ValueError(f"a mask of shape {m.shape} for an image of {(height, width)}")
        self._mask = m.astype(np.uint8)

    @property
    def mask(self) -> np.ndarray:
        """The bitmap, uint8 (H, W) of 0 and 1."""
        if self._mask is None:
            self._mask = self.polygons_to_mask(self._polygons)
        return self._mask

    @property
    def polygons(self) -> list[np.ndarray]:
        """The outlines as flat arrays x0, y0, x1, y1, ..."""
        if self._polygons is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._polygons

    @property
    def has_holes(self) -> bool:
        if self._has_holes is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._has_holes

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """Return the outlines of a bitmap, inner ones too, and whether there are inner ones."""
        import cv2

        contours, hierarchy = cv2.findContours(
            np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        if hierarchy is None or len(contours) == 0:
            return [], False
        has_holes = bool((hierarchy.reshape(-1, 4)[:, 3] >= 0).any())
        # Contours run through pixel centres, which lie at half integers.
        return [c.reshape(-1) + 0.5 for c in contours if c.size >= 6], has_holes

    def polygons_to_mask(self, polygons: list[np.ndarray]) -> np.ndarray:
        return polygons_to_bitmask(polygons, self.height, self.width).astype(np.uint8)

    def area(self) -> int:
        """Return the number of pixels."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """Return the tight box x0, y0, x1, y1 (4,), zeros for an empty mask."""
        return BitMasks(self.mask[None]).get_bounding_boxes().tensor[0].numpy()


class VisImage:
    """An image (H, W, 3), RGB uint8, that is drawn on; enlarged by ``scale``."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # The small addition keeps the canvas from losing a pixel to rounding.
        self.fig.set_size_inches(
            (self.width * scale + 1e-2) / self.dpi, (self.height * scale + 1e-2) / self.dpi
        )
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Replace the image below the drawing by one of equal size."""
        self.ax.imshow(
            img.astype(np.uint8), extent=(0, self.width, self.height, 0), interpolation="nearest"
        )

    def save(self, filepath: str) -> None:
        """Write the image with its drawing to a file; the format follows the suffix."""
        from PIL import Image

        with PathManager.open(filepath, "wb") as f:
            suffix = str(filepath).rsplit(".", maxsplit=1)[-1].lower()
            Image.fromarray(self.get_image()).save(f, format={"jpg": "jpeg"}.get(suffix, suffix))

    def get_image(self) -> np.ndarray:
        """Return the image with its drawing, RGB uint8 (H * scale, W * scale, 3)."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
