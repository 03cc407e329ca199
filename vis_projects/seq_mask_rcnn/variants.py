"""Variants of Propose-Reduce that differ in the reduction only share their sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..modeling.variants import Variant, shares


@shares("SeqMaskRCNN")
def share_sequences(variants: Sequence[Variant], videos: Mapping[Any, Any]) -> Callable[[], None]:
    """Propagate equal key frames of a video once."""
    known: dict[str, Any] = {}
    for cfg, model in variants:
        options = cfg.clone()
        options.defrost()
        node = options.MODEL.SEQ_MASK_RCNN
        for name in ("REDUCE", "RESULT_SCORE_THRESH"):
            node.pop(name)
        key = f"{options.MODEL.dump()}{options.INPUT.dump()}"
        sequences = model.propose_reduce.sequences

        def remembered(*args: Any, key: str = key, make: Callable = sequences, **video: Any) -> Any:
            if key not in known:
                known[key] = make(*args, **video)
            return known[key]

        model.propose_reduce.sequences = remembered
    return known.clear
