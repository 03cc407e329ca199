"""A trained system on your own video, in five lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..modeling import VideoModel, seekable
from ..structures import Frame, FrameResult, FrameSource, InputError, VideoInfo, VideoResult
from ..weights import build_for_test
from .reading import open_source


class VideoPredictor:
    """Runs a config's system on videos.

    ::

        predictor = VideoPredictor(cfg)
        for result in predictor("clip.mp4"):
            print(result.index, result.instances.pred_ids)
        tracks = predictor.video_result.tracks

    Online systems yield a frame's result as soon as it is known. Offline systems look at the whole
    video first; their results are final.

    Args:
        cfg: a config; ``MODEL.WEIGHTS`` are loaded if named.
        model: a system that is built already, instead of building one from ``cfg``.

    Attributes:
        video_result: the VideoResult of the video that was run last.
    """

    def __init__(self, cfg: CfgNode, *, model: VideoModel | None = None) -> None:
        self.cfg = cfg.clone()
        if model is None:
            model, _ = build_for_test(self.cfg)
        if not isinstance(model, VideoModel):
            raise InputError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} segments still images "
                "only: use Detectron2's DefaultPredictor"
            )
        self.model = model.eval()
        names = self.cfg.DATASETS.TEST or self.cfg.DATASETS.TRAIN
        self.metadata = MetadataCatalog.get(names[0]) if len(names) else None
        self.video_result: VideoResult | None = None
        self._index = 0
        self._size: tuple[int, int] | None = None

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, if the config's data set knows them."""
        return None if self.metadata is None else self.metadata.get("thing_classes", None)

    def __call__(
        self, frames: Any, *, masks: Any = None, keep_results: bool = True
    ) -> Iterator[FrameResult]:
        """Segment a video, yielding one FrameResult per frame.

        Args:
            frames: whatever ``open_source`` takes: a file, folder, camera number, arrays.
            masks: for VOS, the first frame's label map or ``{id: mask}``; or a dict
                ``{frame index: either of the two}`` given as ``{"frames": {...}}``.
            keep_results: False for endless streams.
        """
        source = open_source(frames, image_format=self.cfg.INPUT.FORMAT)
        entering = self._entering(masks)
        if self.model.online:
            return self._online(source, entering, keep_results)
        return self._offline(source, entering)

    def _entering(self, masks: Any) -> Mapping[int, Any]:
        if masks is None:
            if self.model.takes_masks:
                raise InputError(
                    f"{type(self.model).__name__} needs the first frame's mask: pass "
                    "masks=... (demo.py: --first-mask)"
                )
            return {}
        if isinstance(masks, Mapping) and set(masks) == {"frames"}:
            return masks["frames"]
        return {0: masks}

    def _online(
        self, source: FrameSource, entering: Mapping[int, Any], keep_results: bool
    ) -> Iterator[FrameResult]:
        info = VideoInfo(source.size, source.length, self.model.task, keep_results=keep_results)
        self.model.start_video(info)
        try:
            for frame in source:
                yield self.model.step(frame, entering.get(frame.index))
        except BaseException:
            self.model.reset()
            raise
        self.video_result = self.model.finish_video()

    def _offline(self, source: FrameSource, entering: Mapping[int, Any]) -> Iterator[FrameResult]:
        with seekable(source, self.cfg.MODEL.SPOOL_LIMIT_MB) as video:
            self.video_result = self.model.run_video(video, entering)
        yield from self.video_result.frames()

    # A stream, frame by frame ---------------------------------------------------------------------

    def start(
        self, size: tuple[int, int], masks: Any = None, *, keep_results: bool = False
    ) -> None:
        """Begin a stream of frames of ``size`` (H, W); ``masks`` enter with its first frame."""
        if not self.model.online:
            raise InputError(
                f"{type(self.model).__name__} looks at whole videos: call the predictor with one"
            )
        entering = self._entering(masks)
        self.model.start_video(VideoInfo(size, None, self.model.task, keep_results=keep_results))
        self._index, self._size, self._first = 0, tuple(size), entering.get(0)

    def step(self, frame: Any, masks: Any = None) -> FrameResult:
        """Segment the next frame: uint8 array (H, W, 3) in ``INPUT.FORMAT``, or a Frame."""
        if self._size is None:
            raise InputError("start(size) begins a stream; it was not called")
        if not isinstance(frame, Frame):
            image = torch.as_tensor(frame).permute(2, 0, 1)
            frame = Frame(image, self._index, f"{self._index:05d}")
        entering = masks if masks is not None else self._first
        result = self.model.step(frame, entering)
        self._first = None
        self._index += 1
        return result

    def finish(self) -> VideoResult:
        """End the stream and return its tracks (empty without ``keep_results``)."""
        self.video_result = self.model.finish_video()
        self._size = None
        return self.video_result
