"""Every trainable system learns one synthetic clip by heart."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model
from systems import CASES, SystemCase

from vis_projects.data import build_train_loader

TRAINABLE = [
    pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.slow_overfit else [])
    for c in CASES
    if c.overfit_steps
]


@pytest.mark.parametrize("case", TRAINABLE)
def test_overfits_one_batch(case: SystemCase) -> None:
    torch.manual_seed(0)
    cfg = case.cfg(**{"DATALOADER.NUM_WORKERS": 0})
    model = build_model(cfg).train()
    batch = next(iter(build_train_loader(cfg)))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 2e-3)
    totals = []
    for _ in range(case.overfit_steps):
        losses = model(batch)
        assert all(loss.ndim == 0 for loss in losses.values())
        total = sum(losses.values())
        assert math.isfinite(total.item()), {k: v.item() for k, v in losses.items()}
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        totals.append(total.item())
    tail = max(len(totals) // 5, 1)
    assert sum(totals[-tail:]) / tail < 0.8 * sum(totals[:tail]) / tail, totals
