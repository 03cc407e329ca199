"""SRNet as a system: training on frame pairs, inference on streams and on batches of frames.

Letters: B frames, h x w map at stride 4, H x W pixels of the original frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import nn

from ..data.class_check import with_counted_classes
from ..modeling import NewMasks, OnFrame, Preprocess, VideoModel, shortest_edge, stage, steps
from ..modeling.exported_network import ExportedNetwork
from ..structures import (
    Frame,
    FrameResult,
    FrameSource,
    InputError,
    TrackRecord,
    VideoInfo,
    VideoResult,
)
from .criterion import Criterion
from .decoder import Decoder, Heads
from .encoder import LEVELS, coarsest_level
from .exported import exported_networks
from .head_maps import DenseMaps, HeadMaps, LazyMaps
from .inference_options import InferenceOptions, build_post_processing
from .instance_probability import activate_offset, bandwidth, log_precision
from .post_processing import STRIDE, FrameOutput, PostProcessing
from .targets import HeatMapNoise, TrackingPoints, frame_targets, training_heat_map
from .track_evidence import TrackEvidence


@dataclass
class NetworkOutput:
    """One frame after the network; only H(t-1), and what depends on it, is missing.

    Attributes:
        x: X (C4, h, w). raw: head outputs (channels, h, w) before activation.
        image_size: of the network's input without padding.
    """

    x: torch.Tensor
    raw: dict[str, torch.Tensor]
    image_size: tuple[int, int]


@META_ARCH_REGISTRY.register()
class SRNet(VideoModel):
    """Single-stage segmentation and tracking by spatial relations (Ying et al. 2021).

    An online system: of the past it knows p5 and the instances of frame t - 1. With
    ``TEST.BATCH_FRAMES`` above 1, ``run_video`` sends several frames through the network at once;
    the results are those of the online form up to rounding. Single images
    (``DefaultPredictor``) advance the running stream and get ids.

    Args:
        backbone: an FPN with the levels p2 .. p5. decoder, heads: the network.
        preprocess: pads to multiples of 32.
        criterion: of the training. noise: of the heat map in training. points: of the tracking
            loss.
        ignore_background_of: beginnings of data sets' names, see ``IGNORE_BACKGROUND_OF``.
        previous_grad, first_frame_prob, tracking_only: see ``PREV_FEATURE_GRAD``,
            ``FIRST_FRAME_PROB`` and ``TRACKING_ONLY``.
        post_processing: Algorithm 1. evidence: decides a track's class (VIS); None for UVOS.
        options: of inference.

    Raises:
        InputError: the backbone lacks a level.
    """

    half_precision_keeps_score = True
    classes_key = "MODEL.SRNET.NUM_CLASSES"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder: Decoder,
        heads: Heads,
        preprocess: Preprocess,
        criterion: Criterion | None = None,
        noise: HeatMapNoise | None = None,
        points: TrackingPoints | None = None,
        ignore_background_of: Sequence[str] = (),
        previous_grad: bool = True,
        first_frame_prob: float = 0.1,
        tracking_only: bool = False,
        post_processing: PostProcessing | None = None,
        evidence: TrackEvidence | None = None,
        options: InferenceOptions | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.backbone = backbone
        self.decoder = decoder
        self.heads = heads
        self.preprocess = preprocess
        self.criterion = criterion or Criterion()
        self.noise = noise or HeatMapNoise()
        self.points = points or TrackingPoints()
        self.ignore_background_of = tuple(ignore_background_of)
        self.previous_grad = previous_grad
        self.first_frame_prob = first_frame_prob
        self.tracking_only = tracking_only
        if tracking_only:
            self.requires_grad_(False)
            self.heads.tracking.requires_grad_(True)
        self.post_processing = post_processing or PostProcessing()
        self.evidence = evidence
        self.options = options or InferenceOptions()
        self.task = "uvos" if heads.category is None else "vis"
        self._forget()

    @property
    def num_classes(self) -> int:
        """Classes of the category head; 0 without it."""
        return 0 if self.heads.category is None else self.heads.category.out.out_channels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        cfg = with_counted_classes(cfg, cls.classes_key)
        srnet, test = cfg.MODEL.SRNET, cfg.MODEL.SRNET.TEST
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        missing = [level for level in LEVELS if level not in shapes]
        if missing:
            raise InputError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} gives no {missing[0]}: SRNet needs "
                "an FPN of p2 .. p5, such as build_srnet_resnet_fpn_backbone"
            )
        if len(srnet.EXTRA_BANDWIDTH) < srnet.EXTRA_DIMS:
            raise InputError(
                f"MODEL.SRNET.EXTRA_BANDWIDTH has {len(srnet.EXTRA_BANDWIDTH)} values for "
                f"EXTRA_DIMS {srnet.EXTRA_DIMS}: give one each"
            )
        if test.SAME_CLASS and not srnet.NUM_CLASSES:
            raise InputError(
                "MODEL.SRNET.TEST.SAME_CLASS True needs a category head, but "
                "MODEL.SRNET.NUM_CLASSES is 0: set SAME_CLASS False"
            )
        if srnet.LEVEL_NORM not in ("", "GN"):
            raise InputError(
                f"MODEL.SRNET.LEVEL_NORM {srnet.LEVEL_NORM!r} is unknown: '' (none) or GN"
            )
        extra = tuple(srnet.EXTRA_BANDWIDTH[: srnet.EXTRA_DIMS])
        return {
            **cls.base_config(cfg),
            "backbone": backbone,
            "decoder": Decoder(
                shapes["p2"].channels,
                srnet.DECODER_CHANNELS,
                groups=srnet.DECODER_GROUPS,
                level_norm=srnet.LEVEL_NORM,
            ),
            "heads": Heads(
                srnet.DECODER_CHANNELS[-1],
                srnet.HEAD_CHANNELS,
                extra_dims=srnet.EXTRA_DIMS,
                num_classes=srnet.NUM_CLASSES,
                heat_map_gain=srnet.HEATMAP_GAIN,
            ),
            "preprocess": Preprocess(
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                divisibility=32,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "criterion": Criterion(
                iou=srnet.IOU,
                smooth=srnet.SMOOTH,
                objectness=srnet.OBJ_BALANCE,
                extra_bandwidth=extra,
            ),
            "noise": HeatMapNoise(
                srnet.HEATMAP_JITTER,
                srnet.HEATMAP_DROP,
                srnet.HEATMAP_DUPLICATE,
                srnet.HEATMAP_BOWL,
            ),
            "points": TrackingPoints(srnet.TRACK_POINTS, srnet.TRACK_SPREAD),
            "ignore_background_of": srnet.IGNORE_BACKGROUND_OF,
            "previous_grad": srnet.PREV_FEATURE_GRAD,
            "first_frame_prob": srnet.FIRST_FRAME_PROB,
            "tracking_only": srnet.TRACKING_ONLY,
            "post_processing": build_post_processing(test, extra, bowl=srnet.HEATMAP_BOWL),
            "evidence": TrackEvidence(test.TRACK_SCORE) if srnet.NUM_CLASSES else None,
            "options": InferenceOptions.from_options(test),
        }

    def exported_networks(self, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
        """What ``vis export model`` writes; ``size`` is that of the network's input."""
        return exported_networks(self, size)

    def frame_networks(self) -> list[nn.Module]:
        return [self.backbone, self.decoder]

    # Training ------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> SRNet:
        super().train(mode)
        if self.tracking_only:  # statistics of batch norms stay, too
            self.backbone.eval()
        return self

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the mean over the pairs of ``loss_iou``, ``_smooth``, ``_track``,
        ``_objectness`` and, for VIS, ``_category``.

        Items hold two frames, t - 1 and t, as the sampler ``consecutive`` makes them.

        Raises:
            InputError: an item has another number of frames.
        """
        for item in items:
            if len(item["image"]) != 2:
                raise InputError(
                    f"SRNet trains on pairs, but an item of {item.get('dataset', 'the data')} has "
                    f"{len(item['image'])} frames: set INPUT.SAMPLER.NAME consecutive"
                )
        images = self._training_images(items)
        size, snap = tuple(images.shape[-2:]), self.post_processing.snap
        previous, current = images.chunk(2)
        first = torch.rand(len(items)) < self.first_frame_prob
        first |= torch.tensor([i["frame_indices"][0] == i["frame_indices"][1] for i in items]) & (
            torch.tensor([not i.get("pseudo", False) for i in items])
        )
        features = self.backbone(current)
        with torch.set_grad_enabled(self.previous_grad and torch.is_grad_enabled()):
            before = coarsest_level(self.backbone, previous)
        is_first = first.to(self.device)[:, None, None, None]
        before = torch.where(is_first, features["p5"], before)
        heat_maps = torch.stack(
            [
                training_heat_map(
                    item["instances"][0], size, self.noise, snap=snap, device=self.device
                )
                for item in items
            ]
        )
        heat_maps = torch.where(is_first, 0.0, heat_maps)
        raw = self.heads(self.decoder(features, before), heat_maps)
        totals: dict[str, torch.Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            for k, item in enumerate(items):
                targets = frame_targets(
                    item["instances"][1],
                    item["instances"][0],
                    size,
                    valid=item["valid"][1] if "valid" in item else None,
                    learn_background=not item.get("dataset", "").startswith(
                        self.ignore_background_of
                    ),
                    first=bool(first[k]),
                    snap=snap,
                    points=self.points,
                    device=self.device,
                )
                terms = self.criterion({name: value[k] for name, value in raw.items()}, targets)
                if self.tracking_only:
                    terms = {"loss_track": terms["loss_track"]}
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0) + value / len(items)
        return totals

    def _training_images(self, items: Sequence[dict[str, Any]]) -> torch.Tensor:
        """All first frames, then all second ones, at one size; 0 where there is no picture."""
        images = [item["image"][f] for f in (0, 1) for item in items]
        batch = self.preprocess.normalise(images).tensor
        for k, item in enumerate(2 * list(items)):
            # Crowds and void are seen, though nothing is learned of them.
            picture = item.get("picture", item.get("valid"))
            if picture is not None:
                picture = picture[k // len(items)].to(batch.device, non_blocking=True)
                h, w = picture.shape
                batch[k, :, :h, :w] *= picture
        return batch

    # Streams -------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._previous: torch.Tensor | None = None  # p5 of frame t - 1
        self._heat_map: torch.Tensor | None = None  # H(t - 1)
        self._ahead: deque[NetworkOutput] = deque()
        self._keep_evidence = False

    def begin(self, info: VideoInfo) -> None:
        self._forget()
        self.post_processing.reset()
        if self.evidence is not None:
            self.evidence.reset()
            self._keep_evidence = info.keep_results

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        ready = self._ahead.popleft() if self._ahead else self.run_network([frame])[0]
        maps = self._head_maps(ready)
        with stage("post-processing"):
            out = self.post_processing(maps)
            self._heat_map = out.heat_map
            masks = self.post_processing.full_size(
                maps, out.clusters, ready.image_size, tuple(frame.size)
            )
            return self._frame_result(out, masks, frame.index)

    def run_network(self, frames: Sequence[Frame]) -> list[NetworkOutput]:
        """Run backbone, decoder and heads on the next frames of the stream."""
        with stage("preprocess"):
            images = self.preprocess(frames)
        with self.autocast():
            with stage("backbone"):
                features = self.backbone(images.tensor)
            p5 = features["p5"]
            first = p5[:1] if self._previous is None else self._previous
            previous = p5 if self.options.repeat_frame else torch.cat([first, p5[:-1]])
            with stage("decoder"):
                x = self.decoder(features, previous)
            with stage("heads"):
                raw = self.heads(x, lazy=True)
                if not self.options.lazy_heads:
                    raw["bandwidth"] = self.heads.bandwidth(x)
        self._previous = p5[-1:].clone()
        return [
            NetworkOutput(x[k], {name: value[k] for name, value in raw.items()}, size)
            for k, size in enumerate(images.image_sizes)
        ]

    def _head_maps(self, ready: NetworkOutput) -> HeadMaps:
        """Activate the heads and join them with H(t - 1)."""
        h, w = ready.x.shape[-2:]
        heat_map = self._heat_map
        if heat_map is None or self.options.zero_heat_map:
            heat_map = torch.zeros((1, h, w), device=ready.x.device)
        offset = activate_offset(ready.raw["offset"])
        objectness = ready.raw["objectness"][0].float().sigmoid()
        category = ready.raw["category"].float() if "category" in ready.raw else None
        rows = torch.arange(h, device=offset.device) * STRIDE < ready.image_size[0]
        columns = torch.arange(w, device=offset.device) * STRIDE < ready.image_size[1]
        valid = rows[:, None] & columns
        if self.options.lazy_heads:
            return LazyMaps(
                self.heads, ready.x.float(), heat_map, offset, objectness, category, valid
            )
        sigma = bandwidth(log_precision(ready.raw["bandwidth"]))
        with self.autocast(), stage("heads"):
            tracking = self.heads.track(ready.x[None], heat_map[None])[0].float()
        return DenseMaps(offset, sigma, tracking, objectness, category, valid)

    def _frame_result(self, out: FrameOutput, masks: torch.Tensor, index: int) -> FrameResult:
        found = out.detections
        classes = None
        if found.category_sums is not None:
            classes = found.classes
            if self._keep_evidence:
                self.evidence.add(found.ids, found.category_sums, found.shape.area, found.scores)
        result = FrameResult.build(
            masks,
            found.ids,
            scores=found.scores,
            classes=classes,
            index=index,
            provisional=classes is not None,
        )
        if masks.is_cuda and not self.options.fixed_rows:
            result.instances = result.instances[found.present]
        return result

    def summarise(self, record: TrackRecord) -> dict[int, float]:
        if self.evidence is None:
            return super().summarise(record)
        return self.evidence.summarise(record.id)

    # Videos --------------------------------------------------------------------------------------

    @torch.no_grad()
    def run_video(
        self,
        source: FrameSource,
        new_masks: NewMasks | None = None,
        *,
        info: VideoInfo | None = None,
        on_frame: OnFrame | None = None,
    ) -> VideoResult:
        """Segment a whole video; ``TEST.BATCH_FRAMES`` frames at a time go through the network."""
        if self.options.batch_frames <= 1 or new_masks:
            return super().run_video(source, new_masks, info=info, on_frame=on_frame)
        self.start_video(info or VideoInfo(source.size, source.length, self.task))
        try:
            ahead = steps(source, source.length, "frames")
            for frames in _batches(ahead, self.options.batch_frames):
                if len({frame.size for frame in frames}) == 1:  # else step() tells which is wrong
                    self._ahead.extend(self.run_network(frames))
                for frame in frames:
                    result = self.step(frame)
                    if on_frame is not None:
                        on_frame(frame, result)
        except BaseException:
            self.reset()
            raise
        return self.finish_video()


def _batches(frames: Iterator[Frame], count: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, count)):
        yield batch
