"""Variants of SRNet that differ at test only share the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..modeling.variants import Variant, shares
from ..structures import Frame
from .model import NetworkOutput


@shares("SRNet")
def share_network(variants: Sequence[Variant], videos: Mapping[Any, Any]) -> Callable[[], None]:
    """Run the network once per frame for all variants whose network is the same."""
    networks: dict[str, Callable] = {}
    outputs: dict[tuple[str, int], NetworkOutput] = {}
    for cfg, model in variants:
        options = cfg.clone()
        options.defrost()
        repeat = options.MODEL.SRNET.TEST.REPEAT_FRAME
        options.MODEL.SRNET.pop("TEST")
        key = f"{options.MODEL.dump()}{options.INPUT.dump()}{repeat}"
        run_network = networks.setdefault(key, model.run_network)

        def remembered(
            frames: Sequence[Frame], key: str = key, run: Callable = run_network
        ) -> list[NetworkOutput]:
            missing = [frame for frame in frames if (key, frame.index) not in outputs]
            if missing:
                outputs.update(zip([(key, frame.index) for frame in missing], run(missing)))
            return [outputs[key, frame.index] for frame in frames]

        model.run_network = remembered
    return outputs.clear
