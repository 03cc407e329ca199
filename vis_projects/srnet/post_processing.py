"""Algorithm 1 for a stream of frames: cluster, describe, link, draw the next heat map.

Letters: R rows (instances), h x w map (stride 4), H x W pixels of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..structures import InputError
from .association import Association, TrackMemory
from .clustering import ClusterRules, Clusters, cluster_on_device, owners_at, rows_as_masks
from .compact_clustering import cluster_compact, owners_within
from .head_maps import HeadMaps
from .heat_map import render_heat_map
from .instances import Detections, describe

STRIDE = 4
_BILINEAR = {"mode": "bilinear", "align_corners": False}


@dataclass
class FrameOutput:
    """One frame after Algorithm 1.

    Attributes:
        clusters, detections: see there; ``detections.ids`` is set.
        heat_map: H(t) (1, h, w), for the next frame's tracking head.
    """

    clusters: Clusters
    detections: Detections
    heat_map: torch.Tensor


class PostProcessing:
    """Stateful: call ``reset`` when a video begins, then once per frame in order.

    Args:
        rules: of the clustering. association: gives ids.
        centre: "mass" or "snap". output: "full" or "stride", see ``full_size``.
        compact: use the compacted clustering; only on the CPU.
        bowl: of H(t), see ``render_heat_map``.

    Raises:
        InputError: an unknown choice.
    """

    def __init__(
        self,
        rules: ClusterRules | None = None,
        association: Association | None = None,
        *,
        centre: str = "mass",
        output: str = "full",
        compact: bool = True,
        bowl: float = 0.0,
    ) -> None:
        for key, value, known in (
            ("CENTER", centre, ("mass", "snap")),
            ("OUTPUT", output, ("full", "stride")),
        ):
            if value not in known:
                raise InputError(
                    f"MODEL.SRNET.TEST.{key} {value!r} is unknown: use {' or '.join(known)}"
                )
        self.rules = rules or ClusterRules()
        self.association = association or Association()
        self.snap = centre == "snap"
        self.output = output
        self.compact = compact
        self.bowl = bowl
        self.memory: TrackMemory | None = None

    def reset(self) -> None:
        """Another video begins."""
        self.memory = None

    def __call__(self, maps: HeadMaps) -> FrameOutput:
        """Find the instances of the next frame and link them to those before."""
        device = maps.objectness.device
        if self.memory is None:
            self.memory = TrackMemory.empty(device)
        cluster = cluster_compact if self._compact(device) else cluster_on_device
        valid = self.rules.claimable(maps.objectness, maps.valid)
        clusters = cluster(maps.embedding, maps.objectness, maps.sigma_at, valid, self.rules)
        found = describe(clusters.masks(), clusters.present, clusters.scores, maps, snap=self.snap)
        found.ids, self.memory = self.association(self.memory, found)
        heat_map = render_heat_map(
            found.point,
            found.shape.height,
            found.shape.width,
            tuple(maps.objectness.shape),
            present=found.present,
            bowl=self.bowl,
        )
        return FrameOutput(clusters, found, heat_map)

    def _compact(self, device: torch.device) -> bool:
        return self.compact and device.type == "cpu"

    def full_size(
        self,
        maps: HeadMaps,
        clusters: Clusters,
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> torch.Tensor:
        """Return masks, bool (R, H, W).

        "full" evaluates the probability on the upsampled embedding with the seeds' values of
        stride 4; "stride" enlarges the labels.

        Args:
            image_size: of the network's input without padding.
            size: (H, W) of the original frame.
        """
        rows = len(clusters.rows)
        if rows == 0:
            return torch.zeros((0, *size), dtype=torch.bool, device=clusters.labels.device)
        h, w = image_size
        if self.output == "stride":
            labels = clusters.labels[None, None].float()
            labels = F.interpolate(labels, scale_factor=STRIDE, mode="nearest")[:, :, :h, :w]
            if size != image_size:
                labels = F.interpolate(labels, size, mode="nearest-exact")
            return rows_as_masks(labels[0, 0].long(), rows)

        def enlarged(cells: torch.Tensor) -> torch.Tensor:
            fine = F.interpolate(cells[None], scale_factor=STRIDE, **_BILINEAR)[:, :, :h, :w]
            if size != image_size:
                fine = F.interpolate(fine, size, **_BILINEAR)
            return fine[0].contiguous()

        fine = enlarged(maps.embedding)
        owners = owners_within if self._compact(fine.device) else owners_at
        labels = owners(fine, clusters, self.rules)
        if self.rules.mask_objectness > 0:
            enough = enlarged(maps.objectness[None])[0] > self.rules.mask_objectness
            labels = torch.where(enough, labels, -1)
        return rows_as_masks(labels, rows)
