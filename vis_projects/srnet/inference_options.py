"""From ``MODEL.SRNET.TEST`` to the objects that inference uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..structures import InputError
from .association import Association, BoxAssociation, CentreAssociation
from .clustering import ClusterRules
from .post_processing import PostProcessing


@dataclass(frozen=True)
class InferenceOptions:
    """What is not part of the post-processing: see the options of the same names."""

    zero_heat_map: bool = False
    repeat_frame: bool = False
    lazy_heads: bool = True
    batch_frames: int = 1
    fixed_rows: bool = False

    @classmethod
    def from_options(cls, test: CfgNode) -> InferenceOptions:
        return cls(
            zero_heat_map=test.ZERO_HEATMAP,
            repeat_frame=test.REPEAT_FRAME,
            lazy_heads=test.LAZY_HEADS,
            batch_frames=test.BATCH_FRAMES,
            fixed_rows=test.FIXED_ROWS,
        )


def build_post_processing(
    test: CfgNode, extra_bandwidth: Sequence[float], *, bowl: float = 0.0
) -> PostProcessing:
    """Return Algorithm 1 as ``MODEL.SRNET.TEST`` wants it.

    Raises:
        InputError: an unknown choice.
    """
    linking = {
        "gate": test.GATE,
        "reach": test.GATE_DISTANCE,
        "greedy": test.GREEDY,
        "same_class": test.SAME_CLASS,
        "max_age": test.MAX_AGE,
    }
    if test.LINK == "tracking":
        association = Association(**linking)
    elif test.LINK == "centre":
        association = CentreAssociation(**linking)
    elif test.LINK == "box_iou":
        association = BoxAssociation(min_iou=test.LINK_IOU, **linking)
    else:
        raise InputError(
            f"MODEL.SRNET.TEST.LINK {test.LINK!r} is unknown: use tracking, centre or box_iou"
        )
    rules = ClusterRules(
        min_score=test.MIN_SCORE,
        mask_threshold=test.MASK_THR,
        min_area=test.MIN_AREA,
        min_free=test.MIN_FREE,
        max_instances=test.MAX_INSTANCES,
        max_seeds=test.MAX_SEEDS,
        extra_bandwidth=extra_bandwidth,
        mask_objectness=test.MASK_OBJECTNESS,
    )
    return PostProcessing(rules, association, centre=test.CENTER, output=test.OUTPUT, bowl=bowl)
