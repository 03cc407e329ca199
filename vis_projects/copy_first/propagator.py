"""The simplest propagator: the next frame looks like the last committed one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable

from ..modeling import PROPAGATOR_REGISTRY, Propagation, Propagator
from ..structures import Frame, on_device


@PROPAGATOR_REGISTRY.register()
class CopyFirstPropagator(Propagator):
    """Predicts the label map that was committed last, with probability one."""

    @configurable
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_anchor", torch.zeros(0), persistent=False)  # knows the device
        self.reset((0, 0))

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {}

    def reset(self, size: tuple[int, int]) -> None:
        self.ids: list[int] = []
        self._labels = torch.zeros(size, dtype=torch.int64, device=self._anchor.device)

    def predict(self, frame: Frame) -> Propagation:
        planes = on_device([0, *self.ids], self._labels.device)
        probabilities = (self._labels[None] == planes[:, None, None]).float()
        return Propagation(list(self.ids), self._labels, probabilities)

    def commit(
        self,
        label_map: torch.Tensor,
        new_ids: Sequence[int] = (),
        *,
        frame: Frame | None = None,
        reference: bool = False,
        corrected: Sequence[int] = (),
    ) -> None:
        self._labels = label_map.to(self._labels.device, torch.int64)
        self.ids = sorted({*self.ids, *new_ids})

    def remove(self, ids: Sequence[int]) -> None:
        gone = on_device(ids, self._labels.device)
        self._labels = torch.where(torch.isin(self._labels, gone), 0, self._labels)
        self.ids = [i for i in self.ids if i not in ids]
