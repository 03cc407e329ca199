"""The Seq-Prop head: masks of one frame carried to another (Propose-Reduce, Fig. 4).

Letters: R rows (instances), M memory entries, L = h w positions at stride 16, A channels of keys,
V of values. Module names are the official ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F

from ..structures import InputError
from .guidance import to_grid

FUSIONS = ("concat", "sum")


@dataclass(frozen=True)
class FrameQuery:
    """What a frame gives every instance.

    Attributes:
        key: (1, A, h, w).
        value: (1, V, h, w).
        skips: maps added while decoding, by stage: "res3" at stride 8 and "res2" at stride 4.
    """

    key: torch.Tensor
    value: torch.Tensor
    skips: dict[str, torch.Tensor]


class ResidualBlock(nn.Module):
    """Pre-activated block; the shortcut sees the un-activated input.

    Args:
        norm: after every convolution; "" for none (released).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, norm: str = ""
    ) -> None:
        super().__init__()
        self.downsample = (
            _conv3x3(in_channels, out_channels, stride, norm)
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.conv1 = _conv3x3(in_channels, out_channels, stride, norm)
        self.conv2 = _conv3x3(out_channels, out_channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu_(self.conv1(F.relu(x))))
        return y.add_(x if self.downsample is None else self.downsample(x))


class Refinement(nn.Module):
    """Adds the frame's own detail to decoded features at twice their resolution.

    Args:
        in_channels: of the backbone stage; 0 for none.
        channels: of the decoder.
        norm: as in ``ResidualBlock``.
    """

    def __init__(self, in_channels: int, channels: int, *, norm: str = "") -> None:
        super().__init__()
        if in_channels:
            self.convFS = _conv3x3(in_channels, channels, 1, norm)
            self.ResFS = ResidualBlock(channels, channels, norm=norm)
        self.ResMM = ResidualBlock(channels, channels, norm=norm)

    def skip(self, feature: torch.Tensor) -> torch.Tensor:
        """Return the part that does not depend on the instance."""
        return self.ResFS(self.convFS(feature))

    def forward(self, skip: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.ResMM(x if skip is None else x + skip)


class SeqPropHead(nn.Module):
    """Memorises masks of guidance frames, reads them for a query frame and decodes masks.

    Args:
        in_channels: of P2.
        skip_channels: channels of the backbone stages added in the decoder: "res3" and "res2" as
            released; the paper names only "res2".
        hidden_channels: at stride 16.
        key_channels, value_channels: A and V.
        decoder_channels: of the decoder.
        fusion: how what was read joins the frame's value: "concat" (released) or "sum" (Fig. 4).
        norm: normalisation after 3x3 convolutions, a name that Detectron2 knows; "" for none.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        skip_channels: Mapping[str, int],
        hidden_channels: int = 512,
        key_channels: int = 64,
        value_channels: int = 256,
        decoder_channels: int = 256,
        fusion: str = "concat",
        norm: str = "",
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise InputError(
                f"MODEL.SEQ_MASK_RCNN.PROP_HEAD.FUSION {fusion!r} is unknown: use concat or sum"
            )
        unknown = sorted(set(skip_channels) - {"res2", "res3"})
        if unknown:
            raise InputError(
                f"MODEL.SEQ_MASK_RCNN.PROP_HEAD.SKIP_FEATURES {unknown[0]!r}: the decoder passes "
                "the strides of res3 and res2 only"
            )
        self.key_channels, self.value_channels = key_channels, value_channels
        self.fusion = fusion
        self.skip_features = tuple(skip_channels)
        self.enc_pos = nn.Conv2d(1, in_channels, 7, 1, 3)
        self.enc_fuse = _to_stride_16(in_channels, hidden_channels, norm)
        self.atn_key = nn.Conv2d(hidden_channels, key_channels, 1)
        self.atn_value = nn.Conv2d(hidden_channels, value_channels, 1)
        self.qry_fuse = _to_stride_16(in_channels, hidden_channels, norm)
        self.qry_atn_key = nn.Conv2d(hidden_channels, key_channels, 1)
        self.qry_atn_value = nn.Conv2d(hidden_channels, value_channels, 1)
        width = value_channels * (2 if fusion == "concat" else 1)
        self.convFM = _conv3x3(width, decoder_channels, 1, norm)
        self.ResMM = ResidualBlock(decoder_channels, decoder_channels, norm=norm)
        self.RF3 = Refinement(skip_channels.get("res3", 0), decoder_channels, norm=norm)
        self.RF2 = Refinement(skip_channels.get("res2", 0), decoder_channels, norm=norm)
        self.pred2 = nn.Conv2d(decoder_channels, 2, 3, 1, 1)
        self._initialise()

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.SEQ_MASK_RCNN.PROP_HEAD
        missing = [f for f in ("p2", *node.SKIP_FEATURES) if f not in input_shape]
        if missing:
            raise InputError(
                f"MODEL.SEQ_MASK_RCNN.PROP_HEAD needs {missing[0]!r}; the backbone gives "
                f"{', '.join(input_shape)} (MODEL.RESNETS.OUT_FEATURES, MODEL.FPN.IN_FEATURES)"
            )
        return {
            "in_channels": input_shape["p2"].channels,
            "skip_channels": {f: input_shape[f].channels for f in node.SKIP_FEATURES},
            "hidden_channels": node.HIDDEN_CHANNELS,
            "key_channels": node.KEY_CHANNELS,
            "value_channels": node.VALUE_CHANNELS,
            "decoder_channels": node.DECODER_CHANNELS,
            "fusion": node.FUSION,
            "norm": node.NORM,
        }

    def _initialise(self) -> None:
        """Start with an attention that means something and with small masks (chosen).

        The query side starts as a copy of the memory side, so that what looks alike is read from
        the first step on; the mask is as strong as P2; p starts near 0.08, since the soft IoU loss
        of large faint masks, and of saturated ones, has hardly a gradient.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.atn_key, self.atn_value, self.qry_atn_key, self.qry_atn_value):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.conv2.weight.mul_(0.1)
            self.enc_pos.weight.mul_(3.0)
            self.pred2.weight.normal_(std=0.01)
            self.pred2.bias.copy_(torch.tensor([1.25, -1.25]))
        self.qry_fuse.load_state_dict(self.enc_fuse.state_dict())
        self.qry_atn_key.load_state_dict(self.atn_key.state_dict())

    def memorize(self, p2: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode masks on their frame.

        Args:
            p2: (1 or R, C, H / 4, W / 4).
            masks: (R, H', W') in [0, 1], at image resolution, or already (R, H / 4, W / 4).

        Returns:
            Keys (R, A, h, w) and values (R, V, h, w). Keys depend on the mask.
        """
        if masks.shape[-2:] != p2.shape[-2:]:
            masks = to_grid(masks, tuple(p2.shape[-2:]))
        x = self.enc_fuse(self.enc_pos(masks[:, None].to(p2.dtype)).add_(p2))
        return self.atn_key(x), self.atn_value(x)

    def query(self, features: Mapping[str, torch.Tensor]) -> FrameQuery:
        """Return what frames (N, ...) give all their instances: from P2, and the skips."""
        x = self.qry_fuse(features["p2"])
        stages = {"res3": self.RF3, "res2": self.RF2}
        skips = {name: stages[name].skip(features[name]) for name in self.skip_features}
        return FrameQuery(self.qry_atn_key(x), self.qry_atn_value(x), skips)

    def read(
        self, query_key: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Read the memory, softmax over all entries and positions together.

        Args:
            query_key: (1 or R, L, A).
            keys: (R, M L, A).
            values: (R, M L, V).

        Returns:
            (R, L, V).
        """
        q = query_key.expand(len(keys), -1, -1)
        keys = keys.to(q.dtype)
        if q.device.type == "cpu" and self.key_channels < self.value_channels:
            # The fused kernel wants equal widths on a CPU; zeros change nothing.
            padding = (0, self.value_channels - self.key_channels)
            q, keys = F.pad(q, padding), F.pad(keys, padding)
        out = F.scaled_dot_product_attention(
            q[:, None],
            keys[:, None],
            values[:, None].to(q.dtype),
            scale=self.key_channels**-0.5,
        )
        return out[:, 0]

    def decode(
        self, read: torch.Tensor, value: torch.Tensor, skips: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return logits (R, 2, H / 4, W / 4) of background and mask.

        Args:
            read: (R, V, h, w).
            value: (1 or R, V, h, w) of the query frame.
            skips: as in ``FrameQuery``, one row or R.
        """
        if self.fusion == "concat":
            x = torch.cat([read, value.expand(len(read), -1, -1, -1)], dim=1)
        else:
            x = read + value
        x = self.ResMM(self.convFM(x))
        x = self.RF3(skips.get("res3"), x)
        x = self.RF2(skips.get("res2"), x)
        return self.pred2(F.relu_(x))

    def segment(self, query: FrameQuery, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Probabilities (R, H, W) of instances in their query frames, before aggregation.

        Args:
            query: of one frame for all rows, or with a row for each.
            keys, values: (R, M L, A) and (R, M L, V).
        """
        h, w = query.key.shape[-2:]
        read = self.read(query.key.flatten(2).transpose(1, 2), keys, values)
        read = read.transpose(1, 2).unflatten(2, (h, w))
        return mask_probabilities(self.decode(read, query.value, query.skips))


def mask_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Upsample logits (R, 2, H / 4, W / 4) bilinearly and return P(mask), float32 (R, H, W).

    Softmax over two channels is the sigmoid of their difference, and resizing is linear.
    """
    difference = (logits[:, 1:] - logits[:, :1]).float()
    up = F.interpolate(difference, scale_factor=4, mode="bilinear", align_corners=False)
    return up[:, 0].sigmoid()


def positions_first(x: torch.Tensor) -> torch.Tensor:
    """(R, C, h, w) -> (R, L, C), the layout of the memory."""
    return x.flatten(2).transpose(1, 2)


def rows_of(query: FrameQuery, rows: Sequence[int] | torch.Tensor) -> FrameQuery:
    """Repeat a batch of frames' queries for instances: row i takes frame ``rows[i]``."""
    index = torch.as_tensor(rows, device=query.key.device)
    return FrameQuery(
        query.key[index],
        query.value[index],
        {name: skip[index] for name, skip in query.skips.items()},
    )


def _conv3x3(in_channels: int, out_channels: int, stride: int, norm: str) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )


def _to_stride_16(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, in_channels, 2, norm=norm),
        ResidualBlock(in_channels, out_channels, 2, norm=norm),
    )
