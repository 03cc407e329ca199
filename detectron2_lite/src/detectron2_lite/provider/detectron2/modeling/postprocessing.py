"""From network coordinates to those of the original image."""

from __future__ import annotations

from detectron2.layers import paste_masks_in_image as _paste_masks_in_image
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

__all__ = ["detector_postprocess", "sem_seg_postprocess"]


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to (output_height, output_width) and paste masks to bool (N, H, W).

    Empty boxes are dropped. The boxes of ``results`` are modified in place. ``pred_masks`` are
    probabilities (N, 1, S, S).
    """
    height, width = results.image_size
    out_height, out_width = int(output_height), int(output_width)
    results = Instances((out_height, out_width), **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(name), "detector_postprocess needs pred_boxes or proposal_boxes"
    boxes = results.get(name)
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]
    if results.has("pred_masks"):
        masks = getattr(results.pred_masks, "tensor", results.pred_masks)
        masks = masks[:, 0] if masks.dim() == 4 else masks
        results.pred_masks = _paste_masks_in_image(
            masks, results.get(name), results.image_size, threshold=mask_threshold
        )
    return results


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Crop the padding from logits (C, H, W) and resize them bilinearly to the output size."""
    result = result[:, : img_size[0], : img_size[1]][None]
    size = (output_height, output_width)
    return F.interpolate(result, size=size, mode="bilinear", align_corners=False)[0]
