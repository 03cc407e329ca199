"""Offline training of the segmentation network (FRTM, section 3.3).

An item is one object of one video: a reference frame and validation frames. The target model is
learned on the reference frame, or read from the cache; the network is trained to turn its scores
on the validation frames into masks. Letters: B items, F validation frames, H x W pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torch.nn import functional as F

from ..modeling import MatchingMemory, Preprocess
from ..structures import Frame
from .backbone import ResNetFeatures
from .base_net import ReferenceEncoder
from .matching_tracker import matched_scores
from .segmentation_network import SegmentationNetwork
from .target_cache import TargetCache
from .target_learner import FirstSamples, TargetLearner, TargetOptions, learn_first
from .target_model import TargetModel
from .tracker import Features, ObjectTracker, Segmented

Item = dict[str, Any]
_IOU_PERIOD = 20  # steps between logged IoUs: reading one waits for the device
RESIZE_FILTERS = ("bilinear", "area_bicubic")


class OfflineTraining:
    """Losses of the segmentation network, and of Base net's encoder.

    Args:
        backbone: frozen.
        network: S.
        preprocess: frames to the backbone's input.
        options: settings of the target models in training.
        cache: of target models; None learns them anew each time (augmented frames).
        size: (H, W) to which frames and masks are resized; None keeps them.
        resize_filter: ``"bilinear"`` or ``"area_bicubic"``, of the frames.
        encoder: Base net's encoder in place of target models.
        matching: an empty memory of labels in their place.
    """

    def __init__(
        self,
        backbone: ResNetFeatures,
        network: SegmentationNetwork,
        *,
        preprocess: Preprocess,
        options: TargetOptions,
        cache: TargetCache | None,
        size: tuple[int, int] | None = None,
        resize_filter: str = "bilinear",
        encoder: ReferenceEncoder | None = None,
        matching: MatchingMemory | None = None,
    ) -> None:
        if resize_filter not in RESIZE_FILTERS:
            raise ValueError(
                f"MODEL.FRTM.TRAINING.RESIZE_FILTER {resize_filter!r}: use "
                f"{' or '.join(RESIZE_FILTERS)}"
            )
        self.backbone, self.network, self.encoder = backbone, network, encoder
        self.preprocess, self.options = preprocess, options
        self.cache, self.size, self.resize_filter = cache, size, resize_filter
        self.matching = matching
        self.learner = ObjectTracker(backbone, None, preprocess=preprocess, options=options)

    def losses(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Return the mean cross-entropy of each validation frame, ``loss_mask_1`` .. ``_F``.

        The mean IoU is logged as ``frtm/iou`` now and then.

        Batch-norm statistics are per validation frame: each is one forward pass over the B items.
        """
        clips = [self._clip(item) for item in items]
        scores_of = self._scores(items, [clip[0] for clip in clips])
        out, overlaps = {}, []
        for f in range(1, min(len(clip) for clip in clips)):
            images = torch.stack([clip[f][0] for clip in clips])
            masks = torch.stack([clip[f][1] for clip in clips])
            features = self._features(images)
            scores = scores_of(features)
            logits = self.network(scores, features, tuple(masks.shape[-2:]))
            wanted = masks[:, None].to(logits.device, logits.dtype, non_blocking=True)
            out[f"loss_mask_{f}"] = F.binary_cross_entropy_with_logits(logits, wanted)
            overlaps.append(mask_iou(logits.detach(), wanted))
        if has_event_storage() and get_event_storage().iter % _IOU_PERIOD == 0:
            get_event_storage().put_scalar("frtm/iou", torch.stack(overlaps).mean().item())
        return out

    def _scores(
        self, items: Sequence[Item], reference: Sequence[tuple[Tensor, Tensor]]
    ) -> Callable[[Features], Tensor]:
        """Learn from B reference frames; return what gives the scores (B, 1, h, w) of features."""
        if self.encoder is None and self.matching is None:
            models = [self.target_model(i, *r) for i, r in zip(items, reference)]
            model = TargetModel(
                torch.cat([m.project for m in models]), torch.cat([m.filter for m in models])
            ).to(self.preprocess.device, non_blocking=True)

            def score(features: Features) -> Tensor:
                x = self.learner.target_map(features)
                with torch.autocast(x.device.type, enabled=False):
                    return model.scores(x.float()[None])[0][:, None]

            return score
        images, masks = (torch.stack(v) for v in zip(*reference))
        features = self._features(images)
        masks = masks.to(self.preprocess.device, non_blocking=True)
        if self.matching is not None:
            return matched_scores(self.matching, features, masks)
        encoded = self.encoder.reference(self.learner.target_map(features), masks[:, None])
        return lambda features: self.encoder(self.learner.target_map(features), encoded)

    @torch.no_grad()
    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """Return features of images (B, 3, H, W) in 0..255."""
        return self.backbone(self.preprocess.normalise(list(images)).tensor)

    def _clip(self, item: Item) -> list[tuple[Tensor, Tensor]]:
        """Return (image (3, H, W), mask (H, W)) of each frame at the training size.

        The reference is the first. Where labels are carried on, the others come in order of time.
        """
        pairs = []
        order = list(range(len(item["image"])))
        if self.matching is not None:
            order[1:] = sorted(order[1:], key=lambda n: item["frame_indices"][n])
        for image, instances in ((item["image"][n], item["instances"][n]) for n in order):
            mask = instances.gt_masks.tensor
            mask = mask.any(0) if len(mask) else torch.zeros(image.shape[-2:], dtype=torch.bool)
            if self.size is not None and tuple(image.shape[-2:]) != self.size:
                image, mask = resize_pair(image, mask, self.size, self.resize_filter)
            pairs.append((image, mask))
        return pairs

    def target_model(self, item: Item, image: Tensor, mask: Tensor) -> TargetModel:
        """Return the target model of an item's reference frame."""
        dataset, sequence = str(item.get("dataset", "")), str(item["video_id"])
        frame, object_id = int(item["frame_indices"][0]), int(item.get("object_id") or 0)

        def learn() -> TargetModel:
            seed = zlib.crc32(f"{dataset}/{sequence}/{frame}/{object_id}".encode())
            return self._learn(image, mask, seed)

        if self.cache is None:
            return learn()
        return self.cache.get(
            sequence, frame, object_id, learn, dataset=dataset, backbone=self.backbone
        )

    @torch.no_grad()
    def _learn(self, image: Tensor, mask: Tensor, seed: int) -> TargetModel:
        """Learn a target model on an image (3, H, W) and mask (H, W); an empty mask gives zeros."""
        pixels = image.round().clamp(0, 255).to(torch.uint8).cpu()
        # Learned at the size at which it is applied: the test's size rule has no say.
        frame = Frame(pixels, output_size=(image.shape[-2], image.shape[-1]))
        features = self.learner.features([frame])
        channels = self.learner.target_map(features).shape[1]
        model = self.learner.initial_model([seed], channels)
        if not mask.any():
            return TargetModel(torch.zeros_like(model.project), torch.zeros_like(model.filter))
        seen = Segmented(frame, features, mask.new_zeros(0))
        x, labels = self.learner.first_samples(seen, [seed], mask[None], self.options.samples)
        stencil = self.learner.stencil(labels.shape[-2:], x.shape[-2:])
        with torch.autocast(x.device.type, enabled=False):  # the solver needs its digits
            first: FirstSamples = learn_first(model, x, labels, stencil, self.options)
            return TargetLearner([seed], first, self.options).model


def mask_iou(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean IoU of masks (B, 1, H, W) at the threshold 0.5; 1 where both are empty."""
    found, wanted = logits > 0, masks > 0.5
    union = (found | wanted).flatten(1).sum(1)
    both = (found & wanted).flatten(1).sum(1)
    return torch.where(union > 0, both / union.clamp(min=1), 1.0).mean()


def resize_pair(
    image: Tensor, mask: Tensor, size: tuple[int, int], resize_filter: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Resize an image (3, H, W) by one of ``RESIZE_FILTERS`` and its mask (H, W) by nearest."""
    shrinks = image.shape[-1] > size[1] or image.shape[-2] > size[0]
    if resize_filter == "bilinear":
        mode = "bilinear"
    else:
        mode = "area" if shrinks else "bicubic"
    resized = F.interpolate(image[None].float(), size, mode=mode)[0].clamp(0, 255)
    return resized, F.interpolate(mask[None, None].float(), size)[0, 0] > 0
