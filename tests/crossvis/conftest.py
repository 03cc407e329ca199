"""The official R-50 model with filled weights, as the recordings have it."""

from __future__ import annotations

import fill
import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config

HEAD = "proposal_generator.fcos_head."


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """Overwrite a model's weights as the recordings' README says."""
    fill.fill(model)
    state = model.state_dict()
    state["mask_head.sizes_of_interest"][:] = torch.tensor([64, 128, 256, 512, 1024])
    state["mask_head._iter"].zero_()
    for level, value in enumerate((3.0, 2.5, 2.0, 1.5, 1.0)):
        state[f"{HEAD}scales.{level}.scale"].fill_(value)
    for name, value in (("cls_logits", -8.0), ("bbox_pred", 1.0), ("ctrness", 1.0)):
        state[f"{HEAD}{name}.bias"].fill_(value)
    if "cls.bias" in state:
        state["cls.bias"].fill_(-4.59511985)
    for name, factor in (
        (HEAD + "cls_logits", 8),
        (HEAD + "bbox_pred", 2),
        (HEAD + "ctrness", 3),
        ("controller", 4),
        ("mask_branch.tower.4", 2),
    ):
        state[f"{name}.weight"].mul_(factor)
    return model


def build_filled(*opts: object) -> torch.nn.Module:
    options = ["MODEL.DEVICE", "cpu", *[str(o) for o in opts]]
    return filled(build_model(load_config("configs/crossvis/R50_1x_ytvis2019.yaml", options)))


@pytest.fixture(scope="session")
def official():
    """The model; tests leave it in eval mode and with the same weights."""
    return build_filled("INPUT.MIN_SIZE_TEST", 0).eval()
