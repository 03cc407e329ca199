"""RoIAlign as a module."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Pool boxes by bilinear sampling (Mask R-CNN, Section 3; torchvision's operator)."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ):
        """``sampling_ratio`` 0 adapts to the box; ``aligned`` moves the samples by half a pixel."""
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Map (N, C, H, W) and rois (R, 5) of [batch index, x1, y1, x2, y2] to (R, C, h, w)."""
        assert rois.dim() == 2 and rois.size(1) == 5, f"rois must be (R, 5), not {rois.shape}"
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
