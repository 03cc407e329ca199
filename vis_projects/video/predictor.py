"""A trained system on your own video, in five lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import load_config
from ..data.catalog.class_names import class_names_for
from ..modeling import VideoModel, seekable
from ..structures import (
    Frame,
    FrameResult,
    FrameSource,
    InputError,
    VideoInfo,
    VideoResult,
    resolve_device,
)
from ..weights import Verdict, build_for_test, config_of_checkpoint, is_weights
from .arrays import frame_array
from .given_masks import entering_masks, objects_of
from .reading import open_source

EnteringMasks = Mapping[int, Mapping[int, Any]]  # frame index -> {id: mask (H, W)}


class VideoPredictor:
    """Runs a system on videos.

        predictor = VideoPredictor("configs/quickstart.yaml", weights="model_final.pth")
        for result in predictor("clip.mp4"):
            print(result.index, result.instances.pred_ids)
        tracks = predictor.video_result.tracks

    Online systems yield a frame's result as soon as it is known. Offline systems look at the whole
    video first; their results are final.

    Args:
        config: a config, the name or path of a config file, or weights that carry their config
            (a checkpoint of ours, ``zoo://NAME``).
        weights: instead of the config's ``MODEL.WEIGHTS``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"auto"``; instead of ``MODEL.DEVICE``.
        threshold: results and tracks that score less are left out (0: all).
        model: a system that is built already, instead of building one.

    Attributes:
        video_result: the VideoResult of the video that was run last; after an error or an early
            end of the loop, that of the frames that were done.
    """

    def __init__(
        self,
        config: CfgNode | str | Path,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        threshold: float = 0.0,
        model: VideoModel | None = None,
    ) -> None:
        self.cfg = _config(config, weights, device)
        self.threshold = threshold
        verdict: Verdict | None = None
        if model is None:
            model, verdict = build_for_test(self.cfg, later=True)
        if not isinstance(model, VideoModel):
            raise InputError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} segments still images "
                "only: use Detectron2's DefaultPredictor"
            )
        self.model = model.eval()
        if verdict is None:
            self.require_weights()
        self._verdict = verdict
        names = self.cfg.DATASETS.TEST or self.cfg.DATASETS.TRAIN
        self.metadata = MetadataCatalog.get(names[0]) if len(names) else None
        self.video_result: VideoResult | None = None
        self._index = 0
        self._size: tuple[int, int] | None = None

    def require_weights(self) -> None:
        """Refuse now what the first video would be refused for.

        Raises:
            InputError: a trained part has no weights.
        """
        self.model.require_weights()

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes: the checkpoint's, else those of the config's data set, if known."""
        return class_names_for(self.cfg, self.model)

    @property
    def category_ids(self) -> list[int] | None:
        """The data set's own ids of the classes, likewise."""
        if self._verdict and self._verdict.class_names:
            return list(self._verdict.class_ids or ()) or None
        known = self._known("thing_dataset_id_to_contiguous_id")
        return None if known is None else sorted(known, key=known.__getitem__)

    def _known(self, key: str) -> Any:
        return None if self.metadata is None else self.metadata.get(key, None)

    def __call__(
        self, frames: Any, *, masks: Any = None, rgb: bool = False, keep_results: bool = True
    ) -> Iterator[FrameResult]:
        """Segment a video, yielding one FrameResult per frame.

        Args:
            frames: a video file, folder of frames, camera number, URL of a stream, or frames in
                memory: arrays, tensors, PIL images, paths, ``cv2.VideoCapture``, a generator.
            masks: for VOS, the first frame's label map, ``{id: mask}``, PIL image or mask file; or
                ``{"frames": {frame index: any of these}}``. The mask of an id that is known already
                corrects it, and helps the frames before it back to the object's mask before
                (``MODEL.CORRECT_BACKWARD``): the whole video is then run before the first result.
            rgb: arrays and tensors are RGB; BGR otherwise, as OpenCV and Detectron2 give them.
                Files and PIL images know their order.
            keep_results: False for endless streams.

        Raises:
            InputError: at the call, before the first frame: frames or masks of another form.
        """
        self.require_weights()
        source = open_source(frames, image_format=self.cfg.INPUT.FORMAT, rgb=rgb)
        entering = self._entering(masks, source.size)
        if entering and source.length is not None and max(entering) >= source.length:
            raise InputError(
                f"masks are given for frame {max(entering)} of a video of {source.length} frames"
            )
        if (keep_results and self._sees_whole(source, entering)) or not self.model.online:
            return self._offline(source, entering)
        return self._online(source, entering, keep_results)

    def sees_whole_video(self, source: FrameSource, masks: Any = None) -> bool:
        """Whether a call with these looks at the whole video before it yields the first result."""
        entering = self._entering(masks, source.size)
        return not self.model.online or self._sees_whole(source, entering)

    def _sees_whole(self, source: FrameSource, entering: EnteringMasks) -> bool:
        """Masks of later frames help the frames before them (``MODEL.CORRECT_BACKWARD``)."""
        given = [i for masks in entering.values() for i in masks]
        return self.model.correct_backward and source.seekable and len(given) > len(set(given))

    def _entering(self, masks: Any, size: tuple[int, int]) -> EnteringMasks:
        if masks is None and self.model.takes_masks:
            raise InputError(
                f"{type(self.model).__name__} needs the first frame's mask: pass masks=... "
                "(vis run: --first-mask)"
            )
        if masks is not None and not self.model.takes_masks:
            raise InputError(
                f"{type(self.model).__name__} finds its objects itself and takes no masks"
            )
        return entering_masks(masks, size)

    def _online(
        self, source: FrameSource, entering: EnteringMasks, keep_results: bool
    ) -> Iterator[FrameResult]:
        info = VideoInfo(source.size, source.length, self.model.task, keep_results=keep_results)
        self.model.start_video(info)
        self.video_result, done = None, 0
        try:
            for frame in source:
                result = self.model.step(frame, entering.get(frame.index))
                done += 1
                yield self._shown(result)
        except BaseException:  # an error, an interrupt, or a loop that was left: what is done stays
            self._finish(done)
            self.model.reset()
            raise
        self._finish(done)

    def _finish(self, done: int) -> None:
        self.video_result = self._described(self.model.finish_video().first(done))

    def _offline(self, source: FrameSource, entering: EnteringMasks) -> Iterator[FrameResult]:
        self.video_result = None
        with seekable(source, self.cfg.MODEL.SPOOL_LIMIT_MB) as video:
            self.video_result = self._described(self.model.run_video(video, entering))
        yield from self.video_result.frames()

    def _shown(self, result: FrameResult) -> FrameResult:
        if self.threshold > 0:
            result.instances = result.instances[result.instances.scores >= self.threshold]
        return result

    def _described(self, result: VideoResult) -> VideoResult:
        """The result with names and ids of its classes, without tracks below the threshold."""
        result.tracks = [t for t in result.tracks if t.score >= self.threshold]
        if not self.model.takes_masks:
            result.class_names, result.category_ids = self.class_names, self.category_ids
        return result

    # A stream, frame by frame ---------------------------------------------------------------------

    def start(
        self, size: tuple[int, int], masks: Any = None, *, keep_results: bool = False
    ) -> None:
        """Begin a stream of frames of ``size`` (H, W); ``masks`` enter with its first frame."""
        self.require_weights()
        if not self.model.online:
            raise InputError(
                f"{type(self.model).__name__} looks at whole videos: call the predictor with one"
            )
        entering = self._entering(masks, tuple(size))
        self.model.start_video(VideoInfo(size, None, self.model.task, keep_results=keep_results))
        self._index, self._size, self._first = 0, tuple(size), entering.get(0)

    def step(self, frame: Any, masks: Any = None, *, rgb: bool = False) -> FrameResult:
        """Segment the next frame: whatever ``frame_array`` takes, or a Frame.

        ``masks``: objects that enter here, or corrections of known ids, in the forms of a call.
        """
        if self._size is None:
            raise InputError("start(size) begins a stream; it was not called")
        if not isinstance(frame, Frame):
            array = frame_array(
                frame, f"frame {self._index}", rgb=rgb, image_format=self.cfg.INPUT.FORMAT
            )
            image = torch.from_numpy(array).permute(2, 0, 1)
            frame = Frame(image, self._index, f"{self._index:05d}")
        entering = self._first if masks is None else objects_of(masks, self._size)
        result = self.model.step(frame, entering)
        self._first = None
        self._index += 1
        return self._shown(result)

    def remove(self, ids: Sequence[int]) -> None:
        """Follow these objects no more, from the next frame on (VOS systems)."""
        self.model.remove(ids)

    def finish(self) -> VideoResult:
        """End the stream and return its tracks (empty without ``keep_results``)."""
        self.video_result = self._described(self.model.finish_video())
        self._size = None
        return self.video_result


def _config(
    config: CfgNode | str | Path, weights: str | Path | None, device: str | None
) -> CfgNode:
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
    elif is_weights(config):
        cfg = config_of_checkpoint(str(config))
    else:
        cfg = load_config(config)
    if device is not None:
        cfg.MODEL.DEVICE = resolve_device(device)
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    return cfg
