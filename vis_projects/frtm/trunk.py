"""Pre-training of the feature extractor from nothing, on pairs of frames (ours, not in the paper).

The paper takes an ImageNet ResNet. Where there is none, a trunk is learned for the very use that
FRTM makes of it: on the target layer's features of one frame a linear classifier is fitted to an
object in closed form (ridge regression, differentiable), applied to another frame, and refined by
the segmentation network; both results are compared with the object's mask there, end to end.
FRTM then keeps the trunk frozen.

Letters: B pairs, N objects in a pair's first frame, C channels, P cells, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from ..modeling import Preprocess, VideoModel
from ..structures import InputError
from .backbone import ResNetFeatures
from .model import build_network, build_preprocess
from .segmentation_network import SegmentationNetwork
from .tracker import TARGET_LAYER

SHARPNESS = 8.0  # of the scores' sigmoid about one half


@META_ARCH_REGISTRY.register()
class FRTMTrunk(VideoModel):
    """A trunk in training; it segments nothing by itself.

    Its checkpoint serves as ``MODEL.FRTM.BACKBONE_WEIGHTS`` (the trunk), and as ``MODEL.WEIGHTS``
    of FRTM to start the segmentation network as well.

    Args:
        ridge: regularisation relative to the mean feature energy.
        score_loss: weight of the classifier's own loss.
    """

    task = "vos"
    online = False

    @configurable
    def __init__(
        self,
        *,
        backbone: ResNetFeatures,
        refiner: SegmentationNetwork,
        preprocess: Preprocess,
        ridge: float = 0.03,
        score_loss: float = 0.5,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.backbone, self.refiner, self.preprocess = backbone, refiner, preprocess
        self.ridge, self.score_loss = ridge, score_loss

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = ResNetFeatures(cfg.MODEL.FRTM.DEPTH)
        return {
            **cls.base_config(cfg),
            "backbone": backbone,
            "refiner": build_network(cfg, backbone),
            "preprocess": build_preprocess(cfg),
            "ridge": cfg.MODEL.FRTM.TRUNK.RIDGE,
            "score_loss": cfg.MODEL.FRTM.TRUNK.SCORE_LOSS,
        }

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``loss_score`` and ``loss_mask`` over the objects of all pairs.

        Raises:
            InputError: the items are not pairs of one size.
        """
        sizes = {tuple(image.shape) for item in items for image in item["image"]}
        if len(sizes) != 1 or any(len(item["image"]) != 2 for item in items):
            raise InputError("FRTMTrunk needs pairs of frames of one size: INPUT.SAMPLER.NAME pair")
        first = self.preprocess.normalise([item["image"][0] for item in items]).tensor
        second = self.preprocess.normalise([item["image"][1] for item in items]).tensor
        images = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
        features = self.backbone(images)
        reference, query = features[TARGET_LAYER].float().chunk(2)
        scores, masks, rows = [], [], []
        for n, item in enumerate(items):
            before, after = (m.to(first.device, non_blocking=True) for m in pair_masks(item))
            with torch.autocast(first.device.type, enabled=False):
                score = ridge_scores(reference[n], before, query[n], ridge=self.ridge)
            scores.append(score)
            masks.append(after)
            rows += [n] * len(after)
        score, mask = torch.cat(scores)[:, None], torch.cat(masks).float()[:, None]
        index = torch.tensor(rows).to(first.device, non_blocking=True)
        own = {name: x.chunk(2)[1][index] for name, x in features.items()}
        logits = self.refiner(score, own, tuple(mask.shape[-2:]))
        coarse = F.adaptive_avg_pool2d(mask, score.shape[-2:])
        return {
            "loss_score": self.score_loss
            * F.binary_cross_entropy_with_logits(SHARPNESS * (score - 0.5), coarse),
            "loss_mask": F.binary_cross_entropy_with_logits(logits, mask),
        }


def pair_masks(item: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the masks bool (N, H, W) of the first frame's objects in both frames of a pair."""
    first, second = item["instances"]
    masks = first.gt_masks.tensor
    same = first.gt_ids[:, None] == second.gt_ids[None]
    later = torch.zeros_like(masks)
    row, column = same.nonzero(as_tuple=True)
    later[row] = second.gt_masks.tensor[column]
    return masks, later


def ridge_scores(reference: Tensor, masks: Tensor, query: Tensor, *, ridge: float) -> Tensor:
    """Fit linear classifiers on a reference frame and apply them to another.

    Args:
        reference, query: features (C, h, w).
        masks: the objects in the reference frame, (N, H, W).
        ridge: regularisation relative to the mean feature energy.

    Returns:
        scores (N, h, w), about 1 on the object and 0 elsewhere.
    """
    labels = F.adaptive_avg_pool2d(masks.to(reference.dtype), reference.shape[-2:]).flatten(1)
    x, z = _with_bias(reference), _with_bias(query)  # (C + 1, P)
    count = labels.sum(1, keepdim=True)
    # Target and background weigh alike, up to tenfold: small objects are not given up.
    gain = ((labels.shape[1] - count) / count.clamp(min=1)).clamp(1, 10)
    weights = 1 + (gain - 1) * labels
    gram = torch.einsum("cp,np,dp->ncd", x, weights, x) / x.shape[1]
    pull = torch.einsum("cp,np->nc", x, weights * labels) / x.shape[1]
    energy = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(len(x), device=x.device, dtype=x.dtype)
    # ``solve`` would wait for the device to see whether it could; with a ridge it can.
    system = gram + ridge * energy * eye
    solution = torch.linalg.solve_ex(system, pull[..., None]).result[..., 0]
    return (solution @ z).unflatten(1, query.shape[-2:])


def _with_bias(features: Tensor) -> Tensor:
    return torch.cat([features.flatten(1), features.new_ones(1, features[0].numel())])
