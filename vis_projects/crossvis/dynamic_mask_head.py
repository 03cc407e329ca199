"""CondInst's mask head: three 1x1 layers whose parameters come from each instance itself.

Letters: N instances, B images, C mask features, h x w the stride-8 grid of the padded input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from torch import nn

from ..modeling.aligned_bilinear import aligned_bilinear
from ..structures import InputError


class DynamicMaskHead(nn.Module):
    """Turns filter vectors into mask logits (CrossVIS, Eq. 2; CondInst, section 3.2).

    Args:
        in_channels: channels C of the mask branch.
        channels: width of the two hidden layers.
        num_layers: layers in all.
        use_rel_coords: feed the position relative to the instance as two more channels.
        feature_stride: stride of the mask features in pixels.
        mask_stride: stride of the logits; ``feature_stride`` is a multiple of it.
        sizes_of_interest: per FPN level, the length in pixels that relative positions are
            divided by (the levels' upper limits, the last one doubled).
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 8,
        channels: int = 8,
        num_layers: int = 3,
        use_rel_coords: bool = True,
        feature_stride: int = 8,
        mask_stride: int = 4,
        sizes_of_interest: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        if feature_stride % mask_stride:
            raise InputError(
                f"MODEL.CONDINST.MASK_OUT_STRIDE {mask_stride} must divide the mask branch's "
                f"stride {feature_stride}"
            )
        self.in_channels = in_channels
        self.use_rel_coords = use_rel_coords
        self.feature_stride = feature_stride
        self.mask_stride = mask_stride
        first = in_channels + (2 if use_rel_coords else 0)
        widths = [first] + [channels] * (num_layers - 1) + [1]
        self.layer_shapes = list(zip(widths[1:], widths[:-1]))  # (out, in) per layer
        self.register_buffer("sizes_of_interest", torch.tensor(list(sizes_of_interest)))
        self.register_buffer("_iter", torch.zeros(1))  # in official checkpoints; unused

    @classmethod
    def from_config(cls, cfg, feature_stride: int) -> dict:
        node = cfg.MODEL.CONDINST
        sizes = list(cfg.MODEL.FCOS.SIZES_OF_INTEREST)
        return {
            "in_channels": node.MASK_BRANCH.OUT_CHANNELS,
            "channels": node.MASK_HEAD.CHANNELS,
            "num_layers": node.MASK_HEAD.NUM_LAYERS,
            "use_rel_coords": not node.MASK_HEAD.DISABLE_REL_COORDS,
            "feature_stride": feature_stride,
            "mask_stride": node.MASK_OUT_STRIDE,
            "sizes_of_interest": [*sizes, sizes[-1] * 2],
        }

    @property
    def num_params(self) -> int:
        """Length of an instance's filter vector: 169 by default."""
        return sum(out * (inp + 1) for out, inp in self.layer_shapes)

    def split(self, params: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cut filter vectors (N, 169) into weights [(N, out, in)] and biases [(N, out, 1)].

        All weights come first, row-major, then all biases.
        """
        sizes = [o * i for o, i in self.layer_shapes] + [o for o, _ in self.layer_shapes]
        parts = params.split(sizes, dim=1)
        n = len(self.layer_shapes)
        weights = [p.reshape(-1, o, i) for p, (o, i) in zip(parts[:n], self.layer_shapes)]
        biases = [p[:, :, None] for p in parts[n:]]
        return weights, biases

    def forward(
        self,
        mask_feats: torch.Tensor,
        params: torch.Tensor,
        locations: torch.Tensor,
        levels: torch.Tensor,
        im_inds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the mask logits (N, H, W) at ``mask_stride``.

        Args:
            mask_feats: (B, C, h, w).
            params: (N, ``num_params``).
            locations: (N, 2) x, y of the instance in pixels of the padded input.
            levels: (N,) FPN level of the instance, 0-based.
            im_inds: (N,) image of each instance; None where B is 1, which saves the copies.
        """
        logits = self.logits_at_feature_stride(mask_feats, params, locations, levels, im_inds)
        factor = self.feature_stride // self.mask_stride
        return aligned_bilinear(logits[:, None], factor)[:, 0]

    def logits_at_feature_stride(
        self,
        mask_feats: torch.Tensor,
        params: torch.Tensor,
        locations: torch.Tensor,
        levels: torch.Tensor,
        im_inds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``forward``, before the enlargement: (N, h, w)."""
        n, (h, w) = len(params), mask_feats.shape[2:]
        weights, biases = self.split(params)
        flat = mask_feats.flatten(2)
        width = self.layer_shapes[0][0]
        first = weights[0][:, :, -self.in_channels :]
        if im_inds is None:
            x = (first.reshape(-1, self.in_channels) @ flat[0]).view(n, width, h * w)
        else:
            x = torch.bmm(first, flat[im_inds])
        # In place: the maps are large and nothing else reads them.
        if self.use_rel_coords:
            # The layer is linear: its two coordinate channels are a row plus a column.
            x_term, y_term = self._coordinate_terms(weights[0], locations, levels, (h, w))
            x = x.view(n, width, h, w).add_(x_term[:, :, None, :])
            x = x.add_((y_term + biases[0])[:, :, :, None]).view(n, width, h * w)
        else:
            x = x.add_(biases[0])
        for weight, bias in zip(weights[1:], biases[1:]):
            x = torch.baddbmm(bias.to(x.dtype), weight, x.relu_())
        return x.view(n, h, w)

    def _coordinate_terms(
        self,
        weight: torch.Tensor,
        locations: torch.Tensor,
        levels: torch.Tensor,
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first layer's response to the relative x (N, out, w) and y (N, out, h).

        Position = (instance - pixel) / size of interest; pixels are cell centres, s*j + s//2.
        """
        stride = self.feature_stride
        unit = self.sizes_of_interest[levels].to(torch.float32)[:, None]
        relative = []
        for axis, count in ((0, size[1]), (1, size[0])):
            centres = torch.arange(count, device=weight.device, dtype=torch.float32)
            centres = centres * stride + stride // 2
            relative.append(((locations[:, axis, None].float() - centres) / unit).to(weight.dtype))
        return (
            weight[:, :, 0, None] * relative[0][:, None, :],
            weight[:, :, 1, None] * relative[1][:, None, :],
        )
