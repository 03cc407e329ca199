"""SeqMaskRCNN: Mask R-CNN with a Seq-Prop head, run by the Propose-Reduce paradigm.

Letters: T frames, h x w the network's image, H x W padded, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage, has_event_storage
from torch import nn

from ..data.class_check import with_counted_classes
from ..modeling import (
    FeatureCache,
    NewMasks,
    OnFrame,
    Preprocess,
    VideoModel,
    shortest_edge,
    stage,
    steps,
    tensor_bytes,
)
from ..structures import (
    Frame,
    FrameSource,
    InputError,
    VideoInfo,
    VideoResult,
)
from .features import pyramid_with_stages, shapes_with_stages
from .inclusive_boxes import SymmetricBox2BoxTransform
from .propose_reduce import ProposeReduce, VideoFeatures
from .roi_heads import SeqPropROIHeads
from .sequence_tracks import assemble_tracks

TASKS = ("vis", "uvos")


@META_ARCH_REGISTRY.register()
class SeqMaskRCNN(VideoModel):
    """Offline video instance and unsupervised object segmentation (Lin et al., ICCV 2021).

    A single image (Detectron2's ``DefaultPredictor``) gives the detections of Mask R-CNN, without
    ids. Tracks are numbered by the order in which reduction selects them; the first lies on top.

    Args:
        backbone: an FPN.
        proposal_generator: the RPN.
        roi_heads: ``SeqPropROIHeads``.
        preprocess: of this network, at test size.
        propose_reduce: the paradigm.
        task: "vis" or "uvos".
        result_score_thresh: a sequence is reported for every class that scores at least this.
        feature_cache_mb: see ``MODEL.FEATURE_CACHE_MB``.
        inclusive_boxes: conventions of official checkpoints.
        base: arguments of ``VideoModel``.
    """

    online = False
    classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        roi_heads: SeqPropROIHeads,
        preprocess: Preprocess,
        propose_reduce: ProposeReduce,
        task: str = "vis",
        result_score_thresh: float = 0.05,
        feature_cache_mb: float = 2048.0,
        inclusive_boxes: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if task not in TASKS:
            raise InputError(f"MODEL.SEQ_MASK_RCNN.TASK {task!r} is unknown: use vis or uvos")
        if not isinstance(roi_heads, SeqPropROIHeads):
            raise InputError("SeqMaskRCNN needs MODEL.ROI_HEADS.NAME SeqPropROIHeads")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.preprocess = preprocess
        self.propose_reduce = propose_reduce
        self.task = task
        self.result_score_thresh = result_score_thresh
        self.cache = FeatureCache(feature_cache_mb)
        if inclusive_boxes:
            for part in (proposal_generator, roi_heads.box_predictor):
                part.box2box_transform = SymmetricBox2BoxTransform(part.box2box_transform.weights)

    @property
    def num_classes(self) -> int:
        """Classes that the box head tells apart."""
        return self.roi_heads.num_classes

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        cfg = with_counted_classes(cfg, cls.classes_key)
        backbone = build_backbone(cfg)
        shapes = shapes_with_stages(backbone)
        node = cfg.MODEL.SEQ_MASK_RCNN
        return {
            **cls.base_config(cfg),
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "preprocess": Preprocess(
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                divisibility=max(backbone.size_divisibility, 32),
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "propose_reduce": ProposeReduce(cfg),
            "task": node.TASK,
            "result_score_thresh": node.RESULT_SCORE_THRESH,
            "feature_cache_mb": cfg.MODEL.FEATURE_CACHE_MB,
            "inclusive_boxes": node.INCLUSIVE_BOXES,
        }

    # Training ------------------------------------------------------------------------------------

    def losses(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Losses of pairs (query frame, guidance frame).

        Detection learns on the query frames only; both frames share the backbone. The guidance
        masks come from the mask head at the ground-truth boxes (section 3.1.3).

        Raises:
            InputError: an item is no pair.
        """
        for item in items:
            if isinstance(item["image"], torch.Tensor) or len(item["image"]) != 2:
                raise InputError(
                    "SeqMaskRCNN trains on pairs of frames: set INPUT.SAMPLER.NAME to "
                    "'covering_pair'"
                )
        n = len(items)
        images = self.preprocess.normalise([x["image"][i] for i in (0, 1) for x in items])
        objects = [[x["instances"][i].to(self.device) for x in items] for i in (0, 1)]
        maps = pyramid_with_stages(self.backbone, images.tensor)
        query = {name: x[:n] for name, x in maps.items()}
        guidance = {name: x[n:] for name, x in maps.items()}
        queries = ImageList(images.tensor[:n], images.image_sizes[:n])
        # Detectron2's heads log into an EventStorage: give them one if nobody trains.
        with nullcontext() if has_event_storage() else EventStorage(0):
            proposals, rpn_losses = self.proposal_generator(queries, query, objects[0])
            _, box_losses = self.roi_heads(queries, query, proposals, objects[0])
        return {
            **rpn_losses,
            **box_losses,
            "loss_prop": self.roi_heads.propagation_loss(guidance, objects[1], query, objects[0]),
        }

    # Inference -----------------------------------------------------------------------------------

    @torch.no_grad()
    def run_video(
        self,
        source: FrameSource,
        new_masks: NewMasks | None = None,
        *,
        info: VideoInfo | None = None,
        on_frame: OnFrame | None = None,
    ) -> VideoResult:
        """Segment a whole video; see ``VideoModel.run_video``. ``on_frame`` comes at the end.

        Raises:
            InputError: masks are given, or the stream exceeds ``MODEL.SPOOL_LIMIT_MB``.
        """
        self.cache.clear()

        def run(video: FrameSource) -> VideoResult:
            return self._run(video, info or VideoInfo(video.size, video.length, self.task))

        try:
            return self.run_whole(source, new_masks, run, on_frame=on_frame)
        finally:
            self.cache.clear()

    def _run(self, video: FrameSource, info: VideoInfo) -> VideoResult:
        length = len(video)
        sizes: list[tuple[int, int]] = []  # of the network's image, un-padded and padded

        def compute(frame: Frame) -> VideoFeatures:
            images, features = self._features(frame)
            if not sizes:
                sizes.extend([tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:])])
            return features

        def features(t: int) -> VideoFeatures:
            return self._cached(t, lambda: compute(video[t]))

        self._fill_cache(video, features, compute)
        paradigm = self.propose_reduce
        with self.autocast():
            proposals = paradigm.proposals(
                paradigm.key_frames(length), lambda t: self._detect(features(t), sizes[0])
            )
            tubes, kept, scores = paradigm(
                self.roi_heads,
                features,
                proposals,
                length=length,
                size=sizes[1],
                device=self.device,
            )
        with stage("output"):
            return assemble_tracks(
                tubes,
                kept,
                scores,
                image_size=sizes[0],
                info=info,
                score_thresh=self.result_score_thresh,
            )

    def _cached(self, t: int, compute: Any) -> VideoFeatures:
        """The cache counts plain containers of tensors: give it one."""
        return self.cache.get(t, lambda: _Cached(compute())).features

    def _fill_cache(self, video: FrameSource, features: Any, compute: Any) -> None:
        """Compute all frames in order if the cache holds them: files decode faster that way."""
        size = tensor_bytes(features(0).tensors())
        if size * len(video) > self.cache.limit:
            return
        for frame in steps(video, len(video), "features"):
            self._cached(frame.index, lambda frame=frame: compute(frame))

    def _features(self, frame: Frame) -> tuple[ImageList, VideoFeatures]:
        with stage("preprocess"):
            images = self.preprocess([frame])
        with self.autocast(), stage("backbone"):
            maps = pyramid_with_stages(self.backbone, images.tensor)
            query = self.roi_heads.prop_head.query(maps)
        pyramid = {name: x for name, x in maps.items() if name.startswith("p")}
        return images, VideoFeatures(pyramid, query)

    def _detect(self, features: VideoFeatures, size: tuple[int, int]) -> torch.Tensor:
        """Masks bool (O, h, w) of a key frame, by descending score."""
        with stage("detection"):
            return self.roi_heads.proposal_masks(self._detections(features.pyramid, size))

    def _detections(self, pyramid: dict[str, torch.Tensor], size: tuple[int, int]) -> Instances:
        # The heads need the batch's sizes only.
        images = ImageList(pyramid["p2"], [size])
        proposals, _ = self.proposal_generator(images, pyramid, None)
        (found,), _ = self.roi_heads(images, pyramid, proposals, None)
        return found

    @torch.no_grad()
    def detect_image(self, frame: Frame) -> Instances:
        """Detections of Mask R-CNN on one image: boxes, scores, classes, masks; no ids."""
        images = self.preprocess([frame])
        with self.autocast():
            maps = pyramid_with_stages(self.backbone, images.tensor)
            found = self._detections(maps, tuple(images.image_sizes[0]))
        return detector_postprocess(found, *frame.size)


class _Cached(dict):
    """Features as a dict, which the cache can weigh."""

    def __init__(self, features: VideoFeatures) -> None:
        super().__init__(tensors=features.tensors())
        self.features = features
