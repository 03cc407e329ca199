"""Training CFBI on clips: frame after frame, the hardest pixels count.

Letters: T frames of a clip (reference, previous, then current ones), H x W crop, N objects with the
background as object 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from .extractor import resize
from .network import CFBINetwork, Embedded
from .preprocess import CFBIPreprocess

IGNORE = 255


def mining_share(step: torch.Tensor | int, top_k_share: float, mining_steps: int) -> torch.Tensor:
    """Share of the pixels that count at a step: from 1 down to ``top_k_share``, linearly."""
    r = torch.as_tensor(step, dtype=torch.float64).div(max(mining_steps, 1)).clamp(max=1)
    return r * top_k_share + 1 - r


def hardest_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | float
) -> torch.Tensor:
    """Cross-entropy over the objects, mean of the hardest ``share`` of the pixels.

    Args:
        logits: (1, N, H, W).
        labels: planes (1, H, W); 255 is ignored (its loss is 0, it still counts as a pixel).
        share: of all pixels, in (0, 1].
    """
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").flatten(1)
    k = max(int(float(share) * loss.shape[1] + 1e-6), 1)  # 0.15 is a little less in binary
    return loss.topk(k, dim=1, sorted=False).values.mean()


def clip_labels(
    instances: Sequence[Instances],
    valid: Sequence[torch.Tensor] | None = None,
    *,
    max_objects: int = 0,
    seed: int = 0,
) -> tuple[torch.Tensor, int]:
    """Label planes (T, H, W) of a clip and N.

    Only objects that are seen in the reference or the previous frame take part: others have
    nothing to be matched with and are background until they are introduced. Of more than
    ``max_objects`` (0: any number) the seed chooses; the others are background.
    """
    known = torch.unique(torch.cat([i.gt_ids[i.gt_masks.tensor.flatten(1).any(1)]
                                    for i in instances[:2]]))  # fmt: skip
    if 0 < max_objects < len(known):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(known), generator=generator)[:max_objects]
        known = known[chosen.sort().values]
    maps = []
    for t, frame in enumerate(instances):
        labels = torch.zeros(frame.image_size, dtype=torch.int64)
        for plane, i in enumerate(known.tolist(), 1):
            for mask in frame.gt_masks.tensor[frame.gt_ids == i]:
                labels[mask.cpu()] = plane
        if valid is not None:
            labels[~valid[t]] = IGNORE
        maps.append(labels)
    return torch.stack(maps), len(known) + 1


class SequenceLoss(nn.Module):
    """The loss of a clip (CFBI section 3.5, "sequential training").

    Every current frame is predicted. Before ``sequential_from`` steps the previous mask is the true
    one; afterwards the arg-max of one prediction is the previous mask of the next.

    Args:
        top_k_share, mining_steps: see ``mining_share``.
        sequential_from: training steps before sequences begin.
        max_objects: objects of a clip, at most; 0 takes all.
    """

    def __init__(
        self,
        *,
        top_k_share: float = 0.15,
        mining_steps: int = 50000,
        sequential_from: int = 50000,
        max_objects: int = 0,
    ) -> None:
        super().__init__()
        self.top_k_share = top_k_share
        self.mining_steps = mining_steps
        self.sequential_from = sequential_from
        self.max_objects = max_objects
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved with the model
        self._host_step: int | None = None  # the same; read from the device once, not every step

    def _load_from_state_dict(self, *args: Any) -> None:
        self._host_step = None
        super()._load_from_state_dict(*args)

    def forward(
        self,
        network: CFBINetwork,
        preprocess: CFBIPreprocess,
        items: Sequence[dict[str, Any]],
    ) -> dict[str, torch.Tensor]:
        """Return ``{"loss_seg"}``, the mean over the clips; one call is one step."""
        step = int(self.step) if self._host_step is None else self._host_step
        share = mining_share(step, self.top_k_share, self.mining_steps)
        clips = []
        for n, item in enumerate(items):
            images = preprocess.normalise(torch.stack(list(item["image"])))
            labels, objects = clip_labels(
                item["instances"],
                item.get("valid"),
                max_objects=self.max_objects,
                seed=step * len(items) + n,
            )
            clips.append((images, labels.to(images.device, non_blocking=True), objects))
        embedded = _embed(network, [images for images, _, _ in clips])
        losses = [
            self._clip(network, frames, labels, objects, share, step < self.sequential_from)
            for frames, (_, labels, objects) in zip(embedded, clips)
        ]
        self.step += 1
        self._host_step = step + 1
        return {"loss_seg": torch.stack(losses).mean()}

    @staticmethod
    def _clip(
        network: CFBINetwork,
        embedded: Sequence[Embedded],
        labels: torch.Tensor,
        objects: int,
        share: torch.Tensor,
        true_previous: bool,
    ) -> torch.Tensor:
        """The loss of one clip of T frames with labels (T, H, W)."""
        count = len(embedded)
        given = torch.where(labels == IGNORE, -1, labels)
        references = [(embedded[0], given[0])]
        first = min(2, count - 1)
        before = given[max(first - 1, 0)]
        losses = []
        for t in range(first, count):  # a clip of one frame predicts that frame
            if true_previous:
                before = given[t - 1]
            logits = network(embedded[t], references, (embedded[t - 1], before), objects)
            logits = resize(logits[None], labels.shape[-2:])
            losses.append(hardest_cross_entropy(logits, labels[t : t + 1], share))
            before = logits.detach()[0].argmax(0)
        return torch.stack(losses).mean()


def _embed(network: CFBINetwork, clips: Sequence[torch.Tensor]) -> list[list[Embedded]]:
    """Features of clips (T, 3, H, W), in one batch if they have one size."""
    clips = [_to_grid(images) for images in clips]
    if len({images.shape[-2:] for images in clips}) > 1:
        return [network.embed(images) for images in clips]
    frames = iter(network.embed(torch.cat(clips)))
    return [[next(frames) for _ in images] for images in clips]


def _to_grid(images: torch.Tensor) -> torch.Tensor:
    """Bring images (T, 3, H, W) to sides of 16k + 1, as at test."""
    size = tuple(max(round((n - 1) / 16) * 16 + 1, 17) for n in images.shape[-2:])
    return images if size == tuple(images.shape[-2:]) else resize(images, size)
