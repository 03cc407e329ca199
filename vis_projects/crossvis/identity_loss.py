"""What makes embeddings of one object alike and those of different objects unlike (section 3.3).

Letters: P positives, E channels, M identities of the training set, G objects of a frame batch.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.losses import class_focal_loss, sigmoid_focal_loss

EMBEDDINGS = ("global", "pairwise")
LOSSES = ("focal", "ce")


def identity_scale(num_identities: int) -> float:
    """sqrt(2) * ln(M - 1), the length that embeddings get before the classifier."""
    return math.sqrt(2) * math.log(max(num_identities - 1, 2))


def global_identity_loss(
    embeddings: torch.Tensor,
    identities: torch.Tensor,
    classifier: nn.Linear,
    *,
    loss: str = "focal",
) -> torch.Tensor:
    """Classification into all identities of the training set (Eqs. 11-14).

    Args:
        embeddings: (P, E) of the positives of both frames, raw.
        identities: (P,) 0..M-1.
        classifier: E to M, the instance proxies.
        loss: "focal" (balanced) or "ce".

    Returns:
        Mean over the positives (the focal loss is summed over the identities); 0 without any.
    """
    scale = identity_scale(classifier.out_features)
    logits = classifier(scale * F.normalize(embeddings, dim=1)).float()
    if loss == "focal":
        total = class_focal_loss(logits, identities)
    else:
        total = F.cross_entropy(logits, identities, reduction="sum")
    return total / max(len(embeddings), 1)


def mean_embeddings(
    embeddings: torch.Tensor, objects: torch.Tensor, num_objects: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean embedding per object (G, E), and which objects have a positive at all (G,)."""
    total = embeddings.new_zeros(num_objects, embeddings.shape[1]).index_add(0, objects, embeddings)
    count = torch.bincount(objects, minlength=num_objects)
    return total / count.clamp(min=1)[:, None].to(total.dtype), count > 0


def pairwise_identity_loss(
    embeddings: torch.Tensor,
    partner: torch.Tensor,
    images: torch.Tensor,
    references: torch.Tensor,
    reference_images: torch.Tensor,
    present: torch.Tensor,
    *,
    loss: str = "ce",
    scale: float = 1.0,
) -> torch.Tensor:
    """Assignment of a key frame's positives to the reference frame's objects (Eqs. 9, 10).

    Args:
        embeddings: (P, E) of the key frames' positives.
        partner: (P,) the same object among the references, or -1 for a new one.
        images: (P,) image of the batch.
        references: (G, E), one embedding per reference object.
        reference_images: (G,).
        present: (G,) whether the object has an embedding.
        loss: "ce" over {new, objects of the same pair} or "focal" per object.
        scale: factor on the products; 1 is Eq. 9.

    Returns:
        Mean over the positives; 0 without any.
    """
    logits = scale * (embeddings @ references.T).float()
    allowed = (images[:, None] == reference_images) & present
    known = partner >= 0
    if len(references):
        known = known & present[partner.clamp(min=0)]
    if loss == "focal":
        targets = torch.zeros_like(logits)
        if len(references):
            targets = (torch.arange(len(references), device=logits.device) == partner[:, None]) & (
                known[:, None]
            )
        total = sigmoid_focal_loss(logits[allowed], targets[allowed])
    else:
        logits = logits.masked_fill(~allowed, -math.inf)
        logits = torch.cat([logits.new_zeros(len(logits), 1), logits], 1)  # column 0: new
        target = torch.where(known, partner + 1, 0)
        total = F.cross_entropy(logits, target, reduction="sum")
    return total / max(len(embeddings), 1)
