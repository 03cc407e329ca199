"""ConsensusVoting as a system: the tracks of a class-agnostic system, by a second look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config import register_names
from ..modeling import (
    MatchingMemory,
    NewMasks,
    OnFrame,
    Preprocess,
    VideoModel,
    shortest_edge,
    stage,
    steps,
)
from ..modeling.backbones.timm_backbone import TimmBackbone, build_timm_backbone
from ..modeling.registered_names import names_of
from ..structures import (
    RLE,
    Frame,
    FrameSource,
    InputError,
    Track,
    VideoInfo,
    VideoResult,
    encode_masks,
    mask_area,
    on_device,
)
from ..weights.own_weights import own_weights_later
from .objectness import Objectness
from .voting import (
    Votes,
    masks_by_votes,
    nearest_references,
    reference_frames,
    same_objects,
    shared_votes,
    tally,
    votes_of,
)

register_names("MODEL.CONSENSUS_VOTING.DETECTOR", names_of(META_ARCH_REGISTRY))


@META_ARCH_REGISTRY.register()
class ConsensusVoting(VideoModel):
    """Masks that a whole video agrees on (ours; see ``voting``); offline, inference only.

    A class-agnostic system finds its tracks. Then every cell of every frame asks the cells that
    look most like it in frames spread over the video: what few frames claim is dropped, what most
    of them show is filled in. Tracks with their votes in the same cells become one, with the id of
    that with the most and the best score. An image gives the detector's detections. Weights are
    the detector's own file (or the same below ``detector.``); trunk and classifier bring ImageNet's
    along.

    Args:
        detector: a ``VideoModel`` that finds objects of any class.
        trunk: gives the maps that are compared; frozen.
        preprocess: sizes and colours for the trunk.
        matching: how cells are compared; its memory is not used.
        objectness: the classifier; None does without.
        references, span, weight, threshold, min_share: see ``MODEL.CONSENSUS_VOTING``.

    Raises:
        InputError: a detector of another kind, or an option that cannot be.
    """

    task = "uvos"
    online = False
    trainable = False
    drawn_above = 0.0

    @configurable
    def __init__(
        self,
        *,
        detector: VideoModel,
        trunk: TimmBackbone,
        preprocess: Preprocess,
        matching: MatchingMemory,
        objectness: Objectness | None,
        references: int = 9,
        span: int = 100,
        weight: float = 0.2,
        threshold: float = 0.55,
        min_share: float = 0.05,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if getattr(detector, "task", None) != "uvos":
            raise InputError(
                "MODEL.CONSENSUS_VOTING.DETECTOR has to be a system that finds objects of any "
                f"class: {type(detector).__name__} of this config is none"
            )
        if references < 1 or span < 1:
            raise InputError("MODEL.CONSENSUS_VOTING: REFERENCES and SPAN are at least 1")
        self.detector, self.objectness = detector, objectness
        self.trunk = trunk.requires_grad_(False).eval()
        self.preprocess, self.matching = preprocess, matching
        self.references, self.span = references, span
        self.weight, self.threshold, self.min_share = weight, threshold, min_share

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.CONSENSUS_VOTING
        trunk = _build_trunk(cfg)
        with own_weights_later(bool(cfg.MODEL.WEIGHTS)):
            objectness = Objectness(
                cfg.MODEL.TIMM.NAME,
                pretrained=cfg.MODEL.TIMM.PRETRAINED,
                size=options.OBJECTNESS_SIZE,
                frame_format=cfg.INPUT.FORMAT,
            ) if options.OBJECTNESS else None  # fmt: skip
        return {
            **cls.base_config(cfg),
            "detector": _build_detector(cfg),
            "trunk": trunk,
            "preprocess": Preprocess(
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
                size_rule=shortest_edge(options.MIN_SIZE, 4 * options.MIN_SIZE),
                frame_format=cfg.INPUT.FORMAT,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "matching": MatchingMemory.from_config(cfg, trunk.output_shape()),
            "objectness": objectness,
            "references": options.REFERENCES,
            "span": options.SPAN,
            "weight": options.OBJECTNESS,
            "threshold": options.THRESHOLD,
            "min_share": options.MIN_SHARE,
        }

    @property
    def num_classes(self) -> int:
        """The detector's: 0."""
        return 0

    def train(self, mode: bool = True) -> ConsensusVoting:
        """Nothing learns here."""
        return super().train(False)

    def frame_networks(self) -> list[nn.Module]:
        return [*self.detector.frame_networks(), self.trunk]

    def reset(self) -> None:
        super().reset()
        self.detector.reset()

    @torch.no_grad()
    def detect_image(self, frame: Frame) -> Instances:
        height, width = frame.size
        self.detector.reset()  # every image is a video of its own
        item = {"image": frame.image, "height": height, "width": width}
        instances = self.detector([item])[0]["instances"]
        instances.remove("pred_ids")
        return instances

    @torch.no_grad()
    def run_video(
        self,
        source: FrameSource,
        new_masks: NewMasks | None = None,
        *,
        info: VideoInfo | None = None,
        on_frame: OnFrame | None = None,
    ) -> VideoResult:
        """Segment a whole video; see the base class. Frames are read twice, references more often.

        Raises:
            InputError: masks are given, or a stream exceeds ``MODEL.SPOOL_LIMIT_MB``.
        """

        def run(frames: FrameSource) -> VideoResult:
            return self._voted(frames, self.detector.run_video(frames, info=info))

        return self.run_whole(source, new_masks, run, on_frame=on_frame)

    def _voted(self, source: FrameSource, found: VideoResult) -> VideoResult:
        """Return the objects with the masks that the video agrees on; those with next to none are
        left out."""
        length, size = len(source), tuple(source.size)
        if not found.tracks:
            return VideoResult([], size, length)
        row = {track.id: n for n, track in enumerate(found.tracks)}
        references = reference_frames(length, self.references, self.span)
        ask = partial(
            self._votes, source, found.tracks, references, self._evidence(source, references)
        )
        shared = torch.zeros(len(row), len(row), device=self.device)
        for _, ids, votes in ask(source[t] for t in references):
            rows = on_device([row[i] for i in ids], self.device)
            shared.index_put_((rows[:, None], rows), shared_votes(votes), accumulate=True)
        groups = same_objects(shared.cpu().numpy())
        owner = {found.tracks[n].id: k for k, group in enumerate(groups) for n in group}
        masks: list[list[RLE | None]] = [[None] * length for _ in groups]
        for t, ids, votes in ask(steps(iter(source), length, "votes")):
            here = sorted({owner[i] for i in ids})
            rows = on_device([0, *(1 + here.index(owner[i]) for i in ids)], self.device)
            joined = votes.new_zeros(1 + len(here), *votes.shape[1:]).index_add_(0, rows, votes)
            with stage("masks"):
                rles = encode_masks(masks_by_votes(joined, size, self.threshold))
            for k, rle in zip(here, rles):
                masks[k][t] = rle if mask_area(rle) else None
        tracks = []
        for group, own in zip(groups, masks):
            first = found.tracks[group[0]]
            score = max(found.tracks[n].score for n in group)
            tracks.append(Track(first.id, {first.category: score}, own))
        pixels = [sum(map(mask_area, track.masks)) for track in tracks]
        least = max(self.min_share * max(pixels), 1)
        seen = [track for track, count in zip(tracks, pixels) if count >= least]
        return VideoResult(sorted(seen, key=lambda track: track.score), size, length)

    def _votes(
        self,
        source: FrameSource,
        tracks: Sequence[Track],
        references: Sequence[int],
        evidence: Mapping[int, Tensor],
        frames: Iterable[Frame],
    ) -> Iterator[tuple[int, list[int], Tensor]]:
        """Yield for each frame its index, the ids of N tracks and the votes (1 + N, h, w); of the
        references only those that vote are held."""
        voters: dict[int, Votes] = {}
        for frame in frames:
            near = nearest_references(frame.index, references, self.references)
            voters = {t: voters[t] for t in near if t in voters}
            for t in near:
                if t not in voters:
                    features = self._features(source[t])
                    size = tuple(source.size)
                    voters[t] = votes_of(features, evidence.get(t), tracks, t, size)
            known = voters.get(frame.index)
            features = self._features(frame) if known is None else known.features
            ids = sorted({i for voter in voters.values() for i in voter.ids})
            with stage("voting"):
                votes = tally(
                    features,
                    [voters[t] for t in near],
                    ids,
                    top_k=self.matching.top_k,
                    sharpness=self.matching.sharpness,
                    chunk_mb=self.matching.chunk_mb,
                )
            yield frame.index, ids, votes

    def _features(self, frame: Frame) -> Tensor:
        with stage("preprocess"):
            image = self.preprocess([frame]).tensor
        with stage("backbone"), self.autocast():
            maps = self.trunk(image, self.matching.levels)
        return self.matching.features(maps)

    def _evidence(self, source: FrameSource, references: Sequence[int]) -> dict[int, Tensor]:
        """Return the classifier's weighted evidence (h, w) by frame: mean 0 and deviation 1 over
        the references, times ``weight``."""
        if self.objectness is None:
            return {}
        with stage("objectness"), self.autocast():
            seen = [self.objectness(source[t]) for t in references]
        cells = torch.stack(seen)
        mean, deviation = cells.mean(), cells.std(correction=0).clamp(min=1e-6)
        return {t: self.weight * (x - mean) / deviation for t, x in zip(references, seen)}


def _build_detector(cfg: CfgNode) -> VideoModel:
    name = cfg.MODEL.CONSENSUS_VOTING.DETECTOR
    if name == ConsensusVoting.__name__:
        raise InputError(f"MODEL.CONSENSUS_VOTING.DETECTOR {name!r}: name another system")
    detector = META_ARCH_REGISTRY.get(name)(cfg)
    detector.needs_weights = False  # the whole asks for all of them
    return detector


def _build_trunk(cfg: CfgNode) -> TimmBackbone:
    """The network that ``MODEL.TIMM`` names, its maps as they are, whatever the detector makes of
    them."""
    own = cfg.clone()
    own.defrost()
    own.MODEL.TIMM.STANDARDISE, own.MODEL.TIMM.FROZEN = "", True
    return build_timm_backbone(own, ShapeSpec(channels=3))
