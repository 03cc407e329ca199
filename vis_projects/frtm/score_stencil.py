"""The weighted squared loss at full resolution, collapsed to score cells.

The loss compares upsampled scores ``U s`` with labels y of H x W pixels under pixel weights q.
Bilinear upsampling reads two rows and two columns, so ``U^T diag(q) U`` couples a score cell with
its eight neighbours only: nine numbers per cell hold all that the optimiser needs, and
``U^T (q y)`` one more. Both are exact (FRTM, Eq. 2 and 3).

Letters: H x W pixels, h x w score cells; N objects, K samples.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def interpolation_matrix(cells: int, pixels: int, *, dtype: torch.dtype) -> Tensor:
    """Return the bilinear upsampling of one axis as a matrix (pixels, cells)."""
    eye = torch.eye(cells, dtype=dtype)[None]
    return F.interpolate(eye, size=pixels, mode="linear", align_corners=False)[0].T.contiguous()


class ScoreStencil:
    """Sums over pixels as small matrix products, for one pair of sizes.

    Args:
        image_size: (H, W).
        score_size: (h, w).
        dtype, device: of the sums; float64 for checks.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        score_size: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.image_size, self.score_size = tuple(image_size), tuple(score_size)
        rows = interpolation_matrix(score_size[0], image_size[0], dtype=dtype)
        columns = interpolation_matrix(score_size[1], image_size[1], dtype=dtype)
        self.rows, self.columns, self.row_pairs, self.column_pairs = (
            m.contiguous().to(device, non_blocking=True)
            for m in (
                rows.T,  # (h, H)
                columns,  # (W, w)
                _neighbour_products(rows).T,  # (3h, H)
                _neighbour_products(columns),  # (W, 3w)
            )
        )

    def couplings(self, weights: Tensor) -> Tensor:
        """Return the nine couplings (..., 9, h, w) of pixel weights (..., H, W).

        Entry ``3 * (dy + 1) + dx + 1`` couples a cell with its neighbour at (dy, dx).
        """
        h, w = self.score_size
        pairs = self.row_pairs @ weights @ self.column_pairs
        pairs = pairs.unflatten(-1, (3, w)).unflatten(-3, (3, h))  # (..., 3, h, 3, w)
        return pairs.transpose(-3, -2).flatten(-4, -3)

    def downsum(self, image: Tensor) -> Tensor:
        """Return ``U^T`` of an image (..., H, W): sums over pixels, (..., h, w)."""
        return self.rows @ image @ self.columns


def _neighbour_products(matrix: Tensor) -> Tensor:
    """(pixels, cells) -> (pixels, 3 * cells): each cell's column times its neighbours'."""
    padded = F.pad(matrix, (1, 1))
    cells = matrix.shape[1]
    return torch.cat([matrix * padded[:, d : d + cells] for d in range(3)], dim=1)


def neighbours(maps: Tensor) -> Tensor:
    """Return the 3x3 neighbourhoods (B, 9, h, w) of maps (B, h, w), zero outside."""
    h, w = maps.shape[-2:]
    return F.unfold(maps[:, None], 3, padding=1).unflatten(-1, (h, w))


def spread(maps: Tensor) -> Tensor:
    """Adjoint of ``collect``: maps (B, h, w) to nine taps (B, 9, h, w).

    Tap (a, b) at a cell holds the map at the cell minus (a - 1, b - 1).
    """
    return neighbours(maps).flip(1)


def collect(taps: Tensor) -> Tensor:
    """Sum nine taps (B, 9, h, w) to maps (B, h, w): tap (a, b) is read at offset (a-1, b-1).

    With taps made by a 1x1 product of a 3x3 filter's nine columns this is the 3x3 convolution
    with zero padding.
    """
    return F.fold(taps.flip(1).flatten(2), taps.shape[-2:], 3, padding=1)[:, 0]


def apply_couplings(couplings: Tensor, scores: Tensor) -> Tensor:
    """Return ``U^T diag(q) U s``: couplings (B, 9, h, w) on scores (B, h, w)."""
    return (couplings * neighbours(scores)).sum(1)
