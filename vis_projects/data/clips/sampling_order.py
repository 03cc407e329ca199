"""In which order keys are drawn: a function of (seed, counter), so that any run can be continued.

Letters: K keys of a data set, B items of a batch over all ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...structures import InputError

_BLOCK = 10_000  # draws among which a WeightedMix keeps its shares exactly
_WINDOW = 64  # batches among which items are grouped by orientation


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(numbers))


class KeyOrder(ABC):
    """Maps position 0, 1, 2, ... to keys."""

    @abstractmethod
    def __call__(self, position: int) -> int:
        """Return the key at a position."""


class EpochOrder(KeyOrder):
    """Every key once per epoch, in a new random order each."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._order = _generator(self.seed, 1, epoch).permutation(self.count)
            self._epoch = epoch
        return int(self._order[place])


class RepeatFactorOrder(KeyOrder):
    """Key k about ``factors[k]`` times per epoch; fractions are rounded at random each epoch."""

    def __init__(self, factors: np.ndarray, *, seed: int) -> None:
        if factors.min() < 1:
            raise ValueError("repeat factors are at least 1")
        self.factors, self.seed = np.asarray(factors, np.float64), seed
        self._starts = [0]
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def _repeats(self, epoch: int) -> np.ndarray:
        whole = np.floor(self.factors)
        extra = _generator(self.seed, 2, epoch).random(len(whole)) < self.factors - whole
        return whole.astype(np.int64) + extra

    def __call__(self, position: int) -> int:
        while self._starts[-1] <= position:
            repeats = self._repeats(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + int(repeats.sum()))
        epoch = int(np.searchsorted(self._starts, position, side="right")) - 1
        if epoch != self._epoch:
            keys = np.repeat(np.arange(len(self.factors)), self._repeats(epoch))
            self._order = _generator(self.seed, 1, epoch).permutation(keys)
            self._epoch = epoch
        return int(self._order[position - self._starts[epoch]])


class UniformClassOrder(KeyOrder):
    """A class uniformly, then a key that shows it; keys without class are never drawn."""

    def __init__(self, classes: Sequence[set[int]], *, seed: int) -> None:
        self.seed = seed
        members: dict[int, list[int]] = {}
        for key, present in enumerate(classes):
            for c in present:
                members.setdefault(c, []).append(key)
        self.members = [np.array(members[c]) for c in sorted(members)]

    def __call__(self, position: int) -> int:
        rng = _generator(self.seed, 3, position)
        keys = self.members[rng.integers(len(self.members))]
        return int(keys[rng.integers(len(keys))])


def repeat_factors(
    classes: Sequence[set[int]], *, threshold: float, power: float = 0.5
) -> np.ndarray:
    """Return the repeat factor of each key (MSN's balanced sampler; frames are counted).

    f(c) is the share of keys that show class c, r(c) = max(1, (threshold / f(c))**power), and a
    key's factor is the largest r of its classes; 1 without class.
    """
    counts: dict[int, int] = {}
    for present in classes:
        for c in present:
            counts[c] = counts.get(c, 0) + 1
    rates = {c: max(1.0, (threshold * len(classes) / n) ** power) for c, n in counts.items()}
    return np.array([max((rates[c] for c in present), default=1.0) for present in classes])


class WeightedMix:
    """Joins data sets with fixed shares: draw k belongs to data set d with share ``weights[d]``.

    Among every 10000 draws the shares are exact, and which draws belong to which set is random, so
    that the position within each set follows from k alone.

    Raises:
        InputError: a weight that is not positive.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        shares = np.asarray(weights, np.float64)
        if len(shares) == 0 or not np.isfinite(shares).all() or shares.min() <= 0:
            raise InputError(f"mixing weights must be positive numbers, got {list(weights)}")
        exact = shares / shares.sum() * _BLOCK
        self.counts = np.maximum(np.floor(exact).astype(np.int64), 1)
        order = np.argsort(-(exact - np.floor(exact)), kind="stable")
        missing = _BLOCK - int(self.counts.sum())
        if missing >= 0:
            self.counts[order[:missing]] += 1
        else:
            self.counts[np.argmax(self.counts)] += missing
        self.seed = seed
        self._block, self._sets, self._rank = -1, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __call__(self, draw: int) -> tuple[int, int]:
        """Return the data set of a draw and its position within that set."""
        if len(self.counts) == 1:
            return 0, draw
        block, place = divmod(draw, _BLOCK)
        if block != self._block:
            sets = np.repeat(np.arange(len(self.counts)), self.counts)
            self._sets = _generator(self.seed, 4, block).permutation(sets)
            rank = np.zeros(_BLOCK, np.int64)
            for d, count in enumerate(self.counts):
                rank[self._sets == d] = np.arange(count)
            self._rank, self._block = rank, block
        d = int(self._sets[place])
        return d, block * int(self.counts[d]) + int(self._rank[place])


class BatchOrder:
    """An endless sequence of batches of draw numbers, the share of one rank.

    Args:
        batch_size: B.
        start: draws that a resumed run has used already; whole batches.
        wide: gives a draw's orientation; batches then hold one orientation as far as possible
            (grouped among 64 batches). None turns grouping off.
        rank, world_size: this process's share of each batch.

    Raises:
        InputError: the batch does not divide among the ranks.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        wide: Callable[[int], bool] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH {batch_size} must be a positive multiple of the "
                f"{world_size} "
                "processes"
            )
        self.batch_size, self.seed, self.wide = batch_size, seed, wide
        self.start = start // batch_size
        self.rank, self.world_size = rank, world_size

    def window(self, number: int) -> list[list[int]]:
        """Return the batches of one window in their order."""
        first = number * _WINDOW * self.batch_size
        draws = list(range(first, first + _WINDOW * self.batch_size))
        if self.wide is None:
            return [draws[i : i + self.batch_size] for i in range(0, len(draws), self.batch_size)]
        groups: tuple[list[int], list[int]] = ([], [])
        for draw in draws:
            groups[self.wide(draw)].append(draw)
        batches, left = [], []
        for group in groups:
            full = len(group) - len(group) % self.batch_size
            batches += [group[i : i + self.batch_size] for i in range(0, full, self.batch_size)]
            left += group[full:]
        if left:  # one batch of both orientations
            batches.append(left)
        order = _generator(self.seed, 5, number).permutation(len(batches))
        return [batches[i] for i in order]

    def __iter__(self) -> Iterator[list[int]]:
        number, place = divmod(self.start, _WINDOW)
        share = self.batch_size // self.world_size
        while True:
            for batch in self.window(number)[place:]:
                yield batch[self.rank * share : (self.rank + 1) * share]
            number, place = number + 1, 0
