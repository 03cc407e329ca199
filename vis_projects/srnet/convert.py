"""Weight formats of SRNet: its own (the paper published none) and torchvision's ResNet.

Detectron2's Mask R-CNN, which its training starts from, has its names.
"""

from __future__ import annotations

from collections.abc import Collection

from ..weights.formats import register_weight_format
from ..weights.resnet import is_torchvision_resnet, to_detectron2


def _is_ours(keys: Collection[str]) -> bool:
    return {"decoder.block1.conv.weight", "heads.offset.conv.weight"} <= set(keys)


register_weight_format("an SRNet checkpoint", _is_ours, system="srnet", own=True)
register_weight_format("torchvision's ResNet", is_torchvision_resnet, to_detectron2, system="srnet")
