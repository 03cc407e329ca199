"""Training of the selection network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from ..data.train_loader import TrainLoader
from ..structures import InputError
from ..weights.own_weights import see_to_weights
from ..weights.verdict import watch_loading
from .selection_network import build_selection_network, pair_logit
from .selection_pairs import build_pair_loader


@META_ARCH_REGISTRY.register()
class MaskSelectionNetwork(nn.Module):
    """The selection network by itself (MSN, Section 3.2), trained on pairs of masks.

    Training items hold ``pair`` (8, S, S) and ``label``, 1 if A is better; in evaluation the
    items' probabilities of "A is better" (N,) come back. Its weights go into MSN as they are.

    Args:
        selector: the network.
        loss: "patch": cross-entropy of every patch with the pair's label; "pair": of the
            aggregated logit.
        aggregate: see ``pair_logit``.
        needs_weights: see ``VideoModel``.

    Raises:
        InputError: another loss.
    """

    trainable = True

    @configurable
    def __init__(
        self,
        *,
        selector: nn.Module,
        loss: str = "patch",
        aggregate: str = "mean_logit",
        needs_weights: bool = False,
    ) -> None:
        super().__init__()
        self.needs_weights = needs_weights
        watch_loading(self)
        if loss not in ("patch", "pair"):
            raise InputError(f"MODEL.MSN.SELECTOR.LOSS {loss!r} is unknown: use patch or pair")
        self.selector, self.loss, self.aggregate = selector, loss, aggregate

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.MSN.SELECTOR
        return {
            "selector": build_selection_network(
                options.NAME, width=options.WIDTH, layers=options.LAYERS
            ),
            "loss": options.LOSS,
            "aggregate": options.AGGREGATE,
            "needs_weights": not cfg.MODEL.ALLOW_MISSING_WEIGHTS,
        }

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """Return the loader of training pairs; the trainer asks for it."""
        return build_pair_loader(cfg)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, items: Sequence[dict[str, Any]]) -> Any:
        """Losses in training, else probabilities (N,)."""
        see_to_weights(self)
        x = torch.stack([item["pair"] for item in items]).to(self.device, non_blocking=True)
        scores = self.selector(x).float()
        if not self.training:
            return pair_logit(scores, self.aggregate).sigmoid()
        labels = torch.tensor([item["label"] for item in items])
        labels = labels.to(self.device, non_blocking=True)
        if self.loss == "pair":
            logits = pair_logit(scores, self.aggregate)
            return {"loss_selection": F.binary_cross_entropy_with_logits(logits, labels)}
        wanted = labels[:, None, None, None].expand_as(scores)
        return {"loss_selection": F.binary_cross_entropy_with_logits(scores, wanted)}
