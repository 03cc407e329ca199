"""The masks of all sequences in all frames as bits, and the IoU of whole sequences.

Letters: N sequences, T frames of H x W pixels (the network's padded size).
"""

from __future__ import annotations

import torch

from ..structures import pack_masks

_BITS = (7, 6, 5, 4, 3, 2, 1, 0)


class PackedTubes:
    """Binary tubes (N, T, H, W) at an eighth of a byte per pixel, on the network's device.

    Args:
        count, length: N and T.
        size: (H, W).
    """

    def __init__(
        self,
        count: int,
        length: int,
        size: tuple[int, int],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        width = (size[0] * size[1] + 7) // 8
        self.bits = torch.zeros((length, count, width), dtype=torch.uint8, device=device)

    def __len__(self) -> int:
        return self.bits.shape[1]

    @property
    def length(self) -> int:
        return self.bits.shape[0]

    def put(self, rows: slice, frame: int, masks: torch.Tensor) -> None:
        """Store boolean masks (n, H, W) of some sequences in a frame."""
        self.bits[frame, rows] = pack_masks(masks).bits

    def frame(self, frame: int, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return the masks of a frame, bool (n, H, W), of all sequences or of some."""
        bits = self.bits[frame] if rows is None else self.bits[frame][rows]
        height, width = self.size
        flat = _unpack(bits)[:, : height * width]
        return flat.view(-1, width, height).transpose(1, 2).bool()

    def iou(self) -> torch.Tensor:
        """Return the IoU of every pair of sequences, float64 (N, N) (Propose-Reduce, Eq. 3).

        Pixels are counted over all frames by one matrix product per frame, exact while a frame
        has fewer than 2**24 pixels. 0 where the union is empty.
        """
        n = len(self)
        shared = torch.zeros((n, n), dtype=torch.float64, device=self.bits.device)
        for t in range(self.length):
            flat = _unpack(self.bits[t]).float()
            shared += (flat @ flat.T).double()
        area = shared.diagonal()
        union = area[:, None] + area[None] - shared
        return torch.where(union > 0, shared / union.clamp(min=1), 0.0)


def _unpack(bits: torch.Tensor) -> torch.Tensor:
    """Return the bits of (n, B) bytes, most significant first, as uint8 (n, 8 B)."""
    shifts = torch.tensor(_BITS, dtype=torch.uint8).to(bits.device, non_blocking=True)
    return ((bits[..., None] >> shifts) & 1).flatten(-2)
