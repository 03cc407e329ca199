"""The CFBI network on one frame: embeddings in, one logit per object and cell out.

Letters: H x W image, h x w cells at stride 4, C embedding channels, N objects with the background
as object 0. Label maps hold planes 0..N-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling import stage
from ..modeling.backbones.timm_backbone import TimmBackbone
from ..modeling.precision import at_least_float32
from ..structures import InputError
from .attention import instance_attention
from .ensembler import CollaborativeEnsembler, PreHead, collaborate
from .extractor import FeatureExtractor, resize, semantic_embedding
from .matching import (
    CHANNEL_ORDER,
    ReferencePixels,
    background_maps,
    global_matching,
    local_matching,
)
from .timm_extractor import TimmExtractor, TrunkFeatures

# Larger maps cost more on a CPU: the allocator gives them back and asks for fresh pages each time.
_CPU_MAP_BYTES = 32e6


@dataclass
class Embedded:
    """A frame's features.

    Attributes:
        embedding: (C, h, w).
        low: layer1's output (low_channels, h, w); only the frame that is segmented needs it.
    """

    embedding: torch.Tensor
    low: torch.Tensor | None = None


def planes_at(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring a label map (H, W) to the cells (h, w) by nearest interpolation."""
    if tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0].to(labels.dtype)


def plane_masks(labels: torch.Tensor, num_objects: int) -> torch.Tensor:
    """One 0/1 mask per plane, (N, h, w), in the default float format."""
    planes = torch.arange(num_objects, device=labels.device)
    return (labels[None] == planes[:, None, None]).to(torch.get_default_dtype())


class CFBINetwork(nn.Module):
    """Foreground and background matching, and the ensembler (CFBI, ECCV 2020).

    Args:
        depth: of the ResNet: 18, 50 or 101.
        width: of the extractor (256).
        embedding_dim: C (100).
        head_width: first width of the ensembler (256).
        norm: of the extractor, ``FrozenBN``, ``BN`` or ``GN``.
        atrous_rate: of global matching; 2 is the "fast" setting.
        chunk_mb: megabytes of distances that global matching holds at once, at most.
        windows: half-widths of local matching in channel order.
        objects_per_batch: objects that go through the ensembler at once, at most.
        embedding_gain: initial weight of the embedding's last norm.
        matching_dtype: number format of matching, ``float32`` or ``float16``.
        trunk: a timm network in place of the ResNet.
        embedding: ``learned``, or ``trunk``: the maps of the timm network themselves.
    """

    def __init__(
        self,
        *,
        depth: int = 101,
        width: int = 256,
        embedding_dim: int = 100,
        head_width: int = 256,
        norm: str = "FrozenBN",
        atrous_rate: int = 1,
        chunk_mb: float = 256.0,
        windows: Sequence[int] = CHANNEL_ORDER,
        objects_per_batch: int = 4,
        embedding_gain: float = 1.0,
        matching_dtype: torch.dtype = torch.float32,
        trunk: TimmBackbone | None = None,
        embedding: str = "learned",
    ) -> None:
        super().__init__()
        self.matching_dtype = matching_dtype
        if embedding not in ("learned", "trunk"):
            raise InputError(
                f"MODEL.CFBI.EMBEDDING {embedding!r} is unknown: use learned or, on a timm "
                "network, trunk"
            )
        if embedding == "trunk":
            if trunk is None:
                raise InputError(
                    "MODEL.CFBI.EMBEDDING trunk needs a trunk of timm, MODEL.TIMM.NAME"
                )
            self.feature_extracter = TrunkFeatures(trunk)
            channels = self.feature_extracter.channels
            self.semantic_embedding = nn.Identity()
            self.appearance = nn.Conv2d(channels, embedding_dim, 1)
        else:
            if trunk is None:
                self.feature_extracter = FeatureExtractor(depth, width, norm=norm)
            else:
                self.feature_extracter = TimmExtractor(trunk, width, norm=norm)
            self.appearance = nn.Identity()
            self.semantic_embedding = semantic_embedding(width, embedding_dim)
            nn.init.constant_(self.semantic_embedding[4].weight, embedding_gain)
        self.bg_bias = nn.Parameter(torch.zeros(1, 1, 1, 1))
        self.fg_bias = nn.Parameter(torch.zeros(1, 1, 1, 1))
        prehead = head_width // 4
        self.dynamic_prehead = PreHead(3 + 2 * len(windows), prehead)
        self.dynamic_seghead = CollaborativeEnsembler(
            3 * embedding_dim + prehead,
            4 * embedding_dim,
            self.feature_extracter.low_channels,
            width=head_width,
        )
        self.atrous_rate = atrous_rate
        self.chunk_mb = chunk_mb
        self.windows = tuple(windows)
        self.objects_per_batch = objects_per_batch

    def embed(self, images: torch.Tensor) -> list[Embedded]:
        """Extract the features of normalised images (B, 3, H, W); H-1, W-1 multiples of 16."""
        with stage("extraction"):
            features, low = self.feature_extracter(images)
            embedding = self.semantic_embedding(features)
        return [Embedded(e, f) for e, f in zip(at_least_float32(embedding), low)]

    def biases(self, num_objects: int) -> torch.Tensor:
        """The learned bias of each object's distances, (N,)."""
        return torch.cat([self.bg_bias.view(1), self.fg_bias.view(1).expand(num_objects - 1)])

    def collect(
        self, references: Sequence[tuple[Embedded, torch.Tensor]], num_objects: int
    ) -> ReferencePixels:
        """Sort the reference pixels by object; labels (H, W) at any size."""
        embeddings = [r.embedding for r, _ in references]
        labels = [planes_at(m, e.shape[-2:]) for e, (_, m) in zip(embeddings, references)]
        return ReferencePixels.collect(
            embeddings,
            labels,
            num_objects,
            atrous_rate=self.atrous_rate,
            dtype=self.matching_dtype,
        )

    def prehead_input(
        self,
        current: Embedded,
        pixels: ReferencePixels,
        previous: tuple[Embedded, torch.Tensor],
        num_objects: int,
    ) -> torch.Tensor:
        """Matching maps and the previous mask, (N, 15, h, w): global, local, mask, local and global
        of the background."""
        bias = self.biases(num_objects)
        size = current.embedding.shape[-2:]
        labels = planes_at(previous[1], size)
        # Distances are small differences of large numbers: autocast has no say in them.
        full = partial(torch.autocast, bias.device.type, enabled=False)
        with stage("global matching"), full():
            near = global_matching(current.embedding, pixels, bias, chunk_mb=self.chunk_mb)
        with stage("local matching"), full():
            local = local_matching(
                current.embedding,
                previous[0].embedding,
                labels,
                bias,
                windows=self.windows,
                dtype=self.matching_dtype,
            )
        mask = plane_masks(labels, num_objects)[:, None]
        return torch.cat(
            [near[:, None], local, mask, background_maps(local), background_maps(near)[:, None]], 1
        )

    def forward(
        self,
        current: Embedded,
        references: Sequence[tuple[Embedded, torch.Tensor]],
        previous: tuple[Embedded, torch.Tensor],
        num_objects: int,
        *,
        pixels: ReferencePixels | None = None,
    ) -> torch.Tensor:
        """Logits (N, h, w) of the current frame.

        Args:
            current: the frame.
            references: reference frames with their label maps.
            previous: the frame before with its label map.
            num_objects: N, the background included.
            pixels: the references' pixels, if collected before.
        """
        size = current.embedding.shape[-2:]
        pixels = pixels or self.collect(references, num_objects)
        maps = self.prehead_input(current, pixels, previous, num_objects)
        with stage("ensembler"):
            mask = plane_masks(planes_at(previous[1], size), num_objects)
            looks = self.appearance(torch.stack([current.embedding, previous[0].embedding]))
            pairs = [
                (self.appearance(e.embedding), plane_masks(planes_at(m, size), num_objects))
                for e, m in references
            ]
            with torch.autocast(mask.device.type, enabled=False):
                attention = instance_attention(pairs, (at_least_float32(looks[1]), mask))
            step = self._batch(num_objects, size)
            parts = [
                self.dynamic_seghead(
                    self.ensembler_input(*looks, mask[part], maps[part]),
                    attention[part],
                    current.low,
                )
                for part in (slice(i, i + step) for i in range(0, num_objects, step))
            ]
            foreground, background = (at_least_float32(torch.cat(p)) for p in zip(*parts))
            return collaborate(foreground, background)

    def _batch(self, num_objects: int, size: tuple[int, int]) -> int:
        """Objects that go through the ensembler at once: in training all."""
        if torch.is_grad_enabled():
            return num_objects
        if self.fg_bias.is_cuda:
            return self.objects_per_batch
        widest = 4 * self.dynamic_seghead.IA1.IA.out_features * size[0] * size[1]
        return max(1, min(self.objects_per_batch, int(_CPU_MAP_BYTES / widest)))

    def ensembler_input(
        self,
        current: torch.Tensor,
        previous: torch.Tensor,
        mask: torch.Tensor,
        maps: torch.Tensor,
    ) -> torch.Tensor:
        """Both embeddings (C, h, w), the previous one inside and outside each mask (N, h, w), and
        the pre-head of the maps: (N, channels, h, w)."""
        inside = previous[None] * mask[:, None]
        return torch.cat(
            [
                current[None].expand(len(mask), -1, -1, -1),
                inside,
                previous[None] - inside,
                self.dynamic_prehead(maps),
            ],
            1,
        )


def probabilities(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits (N, h, w) at the image size, softmax over the objects: (N, H, W)."""
    return resize(logits[None], size)[0].softmax(0)
