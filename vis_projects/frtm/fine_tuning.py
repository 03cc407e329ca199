"""First-frame fine-tuning in place of the target model's optimiser (FRTM, section 4.1).

Every object gets its own copy of the segmentation network and a randomly initialised target
model; both are trained by Adam on augmented first frames, the target model with the loss of
Eq. 2, the network with binary cross-entropy. A baseline of the paper's Table 1: slow by nature.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .score_stencil import ScoreStencil
from .target_learner import collapse
from .target_model import FilterProblem, TargetModel, filter_scores, weighted_targets
from .tracker import Features, ObjectTracker, Segmented


@dataclass
class FineTunedTargets:
    """Target models and networks of the objects that entered together."""

    ids: list[int]
    models: list[TargetModel]
    networks: list[nn.Module]

    def scores(self, features: Tensor) -> Tensor:
        x = features.float()[None]
        return torch.cat([m.scores(x)[0][:, None] for m in self.models])

    def observe(self, features: Tensor, planes: Tensor, stencil: ScoreStencil) -> None:
        """Nothing is learned after the first frame."""

    def keep(self, rows: Sequence[int]) -> None:
        self.ids, self.models, self.networks = (
            [part[r] for r in rows] for part in (self.ids, self.models, self.networks)
        )


class FineTuningTracker(ObjectTracker):
    """Fine-tunes all but the feature extractor on the first frame.

    Attributes:
        iterations, batch, samples, rate: see ``MODEL.FRTM.FINE_TUNING``.
    """

    iterations = 100
    batch = 4
    samples = 20
    rate = 1e-3

    def start_targets(self, seen: Segmented, ids: Sequence[int], masks: Tensor) -> FineTunedTargets:
        tuned = FineTunedTargets(list(ids), [], [])
        for n, i in enumerate(ids):
            model, network = self._tune(seen, i, masks[n])
            tuned.models.append(model)
            tuned.networks.append(network)
        return tuned

    def correct_targets(
        self, targets: FineTunedTargets, seen: Segmented, rows: Sequence[int], masks: Tensor
    ) -> None:
        """Everything is tuned anew, on the corrected frame."""
        for row, mask in zip(rows, masks):
            if mask.any():  # an absent object leaves nothing to tune on
                tuned = self._tune(seen, targets.ids[row], mask)
                targets.models[row], targets.networks[row] = tuned

    def _probabilities(self, features: Features) -> Tensor:
        parts = [torch.zeros(0, *self.size, device=self.device)]
        shared = self.segment
        for targets in self.targets:
            for score, network in zip(
                targets.scores(self.target_map(features)).split(1), targets.networks
            ):
                self.segment = network
                with self.autocast():
                    parts.append(self.refine(score, features, self.size))
        self.segment = shared
        return torch.cat(parts)

    def _tune(self, seen: Segmented, i: int, mask: Tensor) -> tuple[TargetModel, nn.Module]:
        """Return one object's target model and network."""
        images, moved = self.augment(seen.frame.array(), mask.cpu().numpy(), self.samples, i)
        frames = [
            type(seen.frame)(torch.from_numpy(im).permute(2, 0, 1), 0, "", seen.frame.output_size)
            for im in images
        ]
        labels = torch.from_numpy(moved).to(self.device)
        parts = [self.features([f]) for f in frames]  # one by one: 20 full frames
        features = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        start = self.initial_model([i], self.target_map(features).shape[1])
        with torch.enable_grad():
            network = copy.deepcopy(self.segment)
            for parameter in network.parameters():
                parameter.requires_grad_(True)
            w1, w2 = (w.clone().requires_grad_() for w in (start.project, start.filter))
            adam = torch.optim.Adam([w1, w2, *network.parameters()], lr=self.rate)
            generator = torch.Generator().manual_seed(self.seed)
            for _ in range(self.iterations):
                pick = torch.randperm(len(labels), generator=generator)[: self.batch]
                pick = pick.to(self.device)
                loss = self._loss(
                    TargetModel(w1, w2),
                    network,
                    {k: v[pick] for k, v in features.items()},
                    labels[pick],
                )
                adam.zero_grad()
                loss.backward()
                adam.step()
        return TargetModel(w1.detach(), w2.detach()), network.requires_grad_(False)

    def _loss(
        self, model: TargetModel, network: nn.Module, features: Features, labels: Tensor
    ) -> Tensor:
        """Eq. 2 for the target model and cross-entropy for the network, on K samples."""
        x = self.target_map(features).float()
        stencil = self.stencil(labels.shape[-2:], x.shape[-2:])
        parts = collapse(labels[:, None], stencil, self.options)
        g = torch.full((len(labels), 1), 1 / len(labels), device=x.device)
        projected = model.project_features(x[:, None])
        scores = filter_scores(model.filter, projected)
        problem = FilterProblem(
            model.filter,
            projected,
            weighted_targets(g, *parts),
            self.options.filter_reg[1],
        )
        target_loss = problem.loss().sum() + self.options.filter_reg[0] ** 2 * (
            model.project.square().sum()
        )
        pixels = labels.shape[-2] * labels.shape[-1]
        logits = network(scores.detach(), features, tuple(labels.shape[-2:]))
        mask_loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
        return target_loss / pixels + mask_loss
