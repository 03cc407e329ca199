"""The memory of samples a target model learns from (FRTM, section 3.4).

Letters: S slots, N objects, c channels, h x w score cells. Labels and pixel weights are kept only
as the ten collapsed maps that the loss needs, so a sample costs c + 10 maps of h x w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .target_model import Targets, weighted_targets


def _rows(x: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return None if x is None else x[list(rows)]


class SampleWeights:
    """Weights gamma of the slots of N objects (N, S); no host synchronisation.

    Empty slots weigh 0, so they are the first to be filled. The first samples are not protected:
    once all slots are filled the smallest weight goes, in the end even the annotated frame.

    Args:
        objects: N.
        capacity: S.
        eta: update rate, the weight of the first new sample.
    """

    def __init__(
        self,
        objects: int,
        capacity: int,
        *,
        eta: float = 0.1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.eta = eta
        self.values = torch.zeros(objects, capacity, dtype=dtype, device=device)
        self.last = torch.full((objects,), -1, dtype=torch.int64, device=device)

    def start(self, samples: int) -> None:
        """Weigh the initial samples 2 : 1 : 1 : ..., summing to 1."""
        initial = torch.ones(samples, dtype=self.values.dtype, device=self.values.device)
        initial[0] = 2
        self.values.zero_()
        self.values[:, :samples] = initial / initial.sum()
        self.last.fill_(-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other objects."""
        self.values, self.last = _rows(self.values, rows), _rows(self.last, rows)

    def insert(self, active: Tensor | None = None) -> Tensor:
        """Weigh a new sample in; return the slot it takes (N,).

        Args:
            active: bool (N,): objects that get a sample; the others stay as they are.
        """
        n, slots = self.values.shape
        order = torch.arange(slots, device=self.values.device)
        smallest = self.values.amin(1, keepdim=True)
        slot = torch.where(self.values == smallest, order, slots).amin(1)  # ties: the lowest
        empty = self.values.sum(1) == 0
        if self.eta == 1:
            empty = torch.ones_like(empty)
        first = (self.last < 0)[:, None]
        decay = max(1 - self.eta, torch.finfo(self.values.dtype).tiny)
        weights = torch.where(first, self.values / decay, self.values)
        last = weights.gather(1, self.last.clamp(min=0)[:, None]) / decay
        last = torch.where(first, torch.full_like(last, self.eta), last)
        weights = torch.where(order == slot[:, None], last, weights)
        weights = weights / weights.sum(1, keepdim=True)
        only = (order == 0).to(weights.dtype).expand(n, slots)
        weights = torch.where(empty[:, None], only, weights)
        slot = torch.where(empty, torch.zeros_like(slot), slot)
        if active is None:
            self.values, self.last = weights, slot
        else:
            self.values = torch.where(active[:, None], weights, self.values)
            self.last = torch.where(active, slot, self.last)
        return slot


class SampleMemory:
    """Samples of N objects that started in the same frame.

    A given mask of a later frame is a *lasting* sample: it never goes for a predicted one and keeps
    the weight that the annotated frame has at the start. Lasting slots lie before the others, so
    that the samples in use are one block; they are made with the first such sample.

    Args:
        objects: N.
        capacity: S, slots per object.
        channels: c.
        size: (h, w).
        lasting: lasting samples of an object, at most; of more the oldest goes.
    """

    def __init__(
        self,
        objects: int,
        capacity: int,
        channels: int,
        size: tuple[int, int],
        *,
        eta: float = 0.1,
        lasting: int = 8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        def empty(*shape: int) -> Tensor:
            return torch.zeros(capacity, objects, *shape, dtype=dtype, device=device)

        self.capacity = capacity
        self.lasting = max(lasting, 1)
        self.counts = [0] * objects  # lasting samples that each object has had
        self.lasting_weights: Tensor | None = None  # (N, lasting)
        self.offset = 0  # slots before the others
        self.weights = SampleWeights(objects, capacity, eta=eta, dtype=dtype, device=device)
        self.features = empty(channels, *size)
        self.couplings = empty(9, *size)
        self.pull = empty(*size)
        self.energy = empty()
        self.filled = 0  # slots that may be in use; known on the host

    def start(self, features: Tensor, couplings: Tensor, pull: Tensor, energy: Tensor) -> None:
        """Take the K initial samples: (K, N, c, h, w), (K, N, 9, h, w), (K, N, h, w), (K, N)."""
        k = features.shape[0]
        self.weights.start(k)
        self.features[:k], self.couplings[:k] = features, couplings
        self.pull[:k], self.energy[:k] = pull, energy
        self.filled = k
        self.first_weight = 2 / (k + 1)

    def insert(
        self,
        features: Tensor,
        couplings: Tensor,
        pull: Tensor,
        energy: Tensor,
        *,
        active: Tensor | None = None,
    ) -> None:
        """Add one sample per object, (N, c, h, w), (N, 9, h, w), (N, h, w), (N,), if active."""
        slot = self.weights.insert(active) + self.offset
        rows = torch.arange(len(slot), device=slot.device)
        self.filled = min(self.filled + 1, self.capacity)
        for store, new in zip(
            (self.features, self.couplings, self.pull, self.energy),
            (features, couplings, pull, energy),
        ):
            if active is not None:
                keep = active.view(-1, *[1] * (new.dim() - 1))
                new = torch.where(keep, new, store[slot, rows])
            store[slot, rows] = new

    def insert_lasting(
        self, row: int, features: Tensor, couplings: Tensor, pull: Tensor, energy: Tensor
    ) -> None:
        """Add a lasting sample of one object, (c, h, w), (9, h, w), (h, w), ()."""
        if self.lasting_weights is None:
            for name in ("features", "couplings", "pull", "energy"):
                old = getattr(self, name)
                setattr(self, name, torch.cat([old.new_zeros(self.lasting, *old.shape[1:]), old]))
            self.offset = self.lasting
            self.lasting_weights = self.weights.values.new_zeros(len(self.counts), self.lasting)
        slot = self.lasting - 1 - self.counts[row] % self.lasting
        self.counts[row] += 1
        self.features[slot, row], self.couplings[slot, row] = features, couplings
        self.pull[slot, row], self.energy[slot, row] = pull, energy
        self.lasting_weights[row, slot] = self.first_weight

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other objects."""
        self.weights.keep(rows)
        self.counts = [self.counts[r] for r in rows]
        self.lasting_weights = _rows(self.lasting_weights, rows)
        for name in ("features", "couplings", "pull", "energy"):
            setattr(self, name, getattr(self, name)[:, list(rows)].contiguous())

    def samples(self) -> tuple[Tensor, Targets]:
        """Return the projected features and the weighted targets of the slots in use."""
        weights = self.weights.values[:, : self.filled]
        used = min(max(self.counts, default=0), self.lasting)
        if used:
            weights = torch.cat([self.lasting_weights[:, self.lasting - used :], weights], 1)
            weights = weights / weights.sum(1, keepdim=True)
        part = slice(self.offset - used, self.offset + self.filled)
        return self.features[part], weighted_targets(
            weights.T, self.couplings[part], self.pull[part], self.energy[part]
        )
