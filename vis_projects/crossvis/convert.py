"""Official checkpoints: CrossVIS's own, and AdelaiDet's CondInst that training starts from.

Module names equal the official ones, so most tensors pass unchanged.
"""

from __future__ import annotations

import torch

# Parts that only other training modes of the official code use.
_UNUSED = ("mask_head._iter", "mask_branch.seg_head.", "mask_branch.logits.")
_REQUIRED = ("controller.weight", "proposal_generator.fcos_head.cls_logits.weight")


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that our model has, under their official names.

    The identity classifier ``cls`` stays; loading skips it where the number of identities, as it
    skips ``cls_logits`` where the number of classes, differs.

    Raises:
        KeyError: a tensor that every CondInst or CrossVIS checkpoint has is missing.
    """
    for key in _REQUIRED:
        state[key]
    return {k: v for k, v in state.items() if not k.startswith(_UNUSED)}
