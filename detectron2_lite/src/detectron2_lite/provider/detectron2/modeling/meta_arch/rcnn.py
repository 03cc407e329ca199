"""Two-stage detectors: backbone, proposals, RoI heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..backbone import Backbone, build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]


class _NormalisedInput(nn.Module):
    """The part of a detector that turns input dicts into a normalised batch."""

    def _register_pixels(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        mean = torch.tensor(pixel_mean).view(-1, 1, 1)
        std = torch.tensor(pixel_std).view(-1, 1, 1)
        assert mean.shape == std.shape, f"PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} differ"
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the images (C, H, W) and pad them to what the backbone needs."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(_NormalisedInput):
    """Faster, Mask and Cascade R-CNN, by the choice of parts."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        """Without ``proposal_generator`` the inputs carry ``proposals``.

        ``vis_period``: iterations between pictures of proposals in the EventStorage, 0 for none;
        they need ``input_format``.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        assert vis_period <= 0 or input_format is not None, "vis_period needs input_format"
        self._register_pixels(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]):
        """Training: the dict of losses; testing: ``[{"instances": Instances}, ...]``.

        Each input holds ``image`` (C, H, W), in training ``instances``, and optionally ``height``
        and ``width`` of the output and ``proposals``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = None
        if "instances" in batched_inputs[0]:
            targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._proposals(batched_inputs, images, features, targets)
        _, detector_losses = self.roi_heads(images, features, proposals, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def _proposals(self, batched_inputs, images, features, targets=None):
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, targets)
        assert "proposals" in batched_inputs[0], "without a generator the inputs need 'proposals'"
        return [x["proposals"].to(self.device) for x in batched_inputs], {}

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """Detect, or only add masks to ``detected_instances`` (pred_boxes, pred_classes).

        Returns what ``forward`` does; without post-processing the Instances in the coordinates
        of the network, masks as probabilities.
        """
        assert not self.training, "inference needs eval mode"
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self._proposals(batched_inputs, images, features)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            detected = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    @staticmethod
    def _postprocess(instances: list[Instances], batched_inputs: list[dict], image_sizes) -> list:
        """Rescale each result to the size that its input asks for."""
        outputs = []
        for result, inputs, size in zip(instances, batched_inputs, image_sizes):
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            outputs.append({"instances": detector_postprocess(result, height, width)})
        return outputs

    @torch.no_grad()
    def visualize_training(self, batched_inputs: list[dict], proposals: list[Instances]) -> None:
        """Put the first image, ground truth left and best 20 proposals right, into the storage."""
        from detectron2.data.detection_utils import convert_image_to_rgb
        from detectron2.utils.visualizer import Visualizer

        inputs, proposal = batched_inputs[0], proposals[0]
        image = convert_image_to_rgb(inputs["image"].permute(1, 2, 0).cpu(), self.input_format)
        truth = inputs["instances"].gt_boxes.tensor.cpu().numpy()
        best = proposal.proposal_boxes.tensor[:20].cpu().numpy()
        pictures = [
            Visualizer(image, None).overlay_instances(boxes=boxes).get_image()
            for boxes in (truth, best)
        ]
        picture = np.concatenate(pictures, axis=1).transpose(2, 0, 1)
        title = "Left: GT bounding boxes;  Right: Predicted proposals"
        get_event_storage().put_image(title, torch.from_numpy(picture.copy()))


@META_ARCH_REGISTRY.register()
class ProposalNetwork(_NormalisedInput):
    """A proposal generator alone."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self._register_pixels(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]):
        """Training: the proposal losses; testing: ``[{"proposals": Instances}, ...]``."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        targets = None
        if "instances" in batched_inputs[0]:
            targets = [x["instances"].to(self.device) for x in batched_inputs]
        proposals, losses = self.proposal_generator(images, features, targets)
        if self.training:
            return losses
        outputs = []
        for result, inputs, size in zip(proposals, batched_inputs, images.image_sizes):
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            outputs.append({"proposals": detector_postprocess(result, height, width)})
        return outputs
