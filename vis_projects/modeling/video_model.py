"""The base class of every system: one interface for training, streams, videos and stills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import Instances
from torch import nn

from ..structures import (
    Frame,
    FrameResult,
    FrameSource,
    InputError,
    TrackRecord,
    TrackRecorder,
    VideoInfo,
    VideoResult,
    mean_score,
)
from ..weights.card import remember_class_names
from ..weights.own_weights import see_to_weights
from ..weights.verdict import watch_loading
from .backbones.packed_convolution import pack
from .backward_corrections import GivenMasks, follow_both_ways
from .progress import steps
from .spool import seekable

NewMasks = Mapping[int, Any]  # frame index -> {id: mask (H, W)} or a label map (H, W)
OnFrame = Callable[[Frame, FrameResult], None]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class VideoModel(nn.Module):
    """A system.

    Online systems implement ``begin`` and ``segment``; the base class keeps the record. Offline
    systems set ``online = False`` and implement ``run_video`` and ``detect_image``. Systems that
    train implement ``losses``.

    Class attributes:
        task: ``"vis"``, ``"uvos"`` or ``"vos"``; an instance may set its own.
        online: results of a frame do not depend on later frames.
        takes_masks: the objects are given as masks (VOS).
        trainable: ``losses`` is implemented.
        drawn_above: overlays show tracks with at least this score (chosen per system).
        half_precision_keeps_score: ``MODEL.INFERENCE_DTYPE auto`` may take half precision: on the
            system's quickstart that costs at most 0.1 points of AP or J&F (docs/speed.md).
        keep_empty_masks: detections whose mask is empty stay in the record (``TrackRecorder``).

    Args:
        input_format: channel order of the frames that come in (``INPUT.FORMAT``).
        inference_dtype: number format under ``autocast`` (``MODEL.INFERENCE_DTYPE``).
        spool_limit_mb: see ``MODEL.SPOOL_LIMIT_MB``.
        correct_backward: see ``MODEL.CORRECT_BACKWARD``.
        needs_weights: before the first image or video it is looked whether every trained part has
            got its weights, whoever loaded them (Detectron2's ``DefaultPredictor``, a script); the
            opposite of ``MODEL.ALLOW_MISSING_WEIGHTS``. A model that trains needs none.
    """

    task = "vis"
    online = True
    takes_masks = False
    trainable = True
    drawn_above = 0.4
    half_precision_keeps_score = False
    keep_empty_masks = False

    def __init__(
        self,
        *,
        input_format: str = "BGR",
        inference_dtype: str = "float32",
        spool_limit_mb: float = 4096.0,
        correct_backward: bool = True,
        needs_weights: bool = False,
    ) -> None:
        super().__init__()
        self.needs_weights = needs_weights
        watch_loading(self)
        if inference_dtype not in _DTYPES:
            raise InputError(
                f"MODEL.INFERENCE_DTYPE {inference_dtype!r} is unknown: use {', '.join(_DTYPES)}"
            )
        self.input_format = input_format
        self.inference_dtype = _DTYPES[inference_dtype]
        self.spool_limit_mb = spool_limit_mb
        self.correct_backward = correct_backward
        self._recorder: TrackRecorder | None = None
        self._image_index = 0

    @classmethod
    def base_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the base class's arguments from a config, for a system's ``from_config``."""
        remember_class_names(cfg)
        return {
            "input_format": cfg.INPUT.FORMAT,
            "inference_dtype": cfg.MODEL.INFERENCE_DTYPE,
            "spool_limit_mb": cfg.MODEL.SPOOL_LIMIT_MB,
            "correct_backward": cfg.MODEL.CORRECT_BACKWARD,
            "needs_weights": not cfg.MODEL.ALLOW_MISSING_WEIGHTS,
        }

    @property
    def device(self) -> torch.device:
        """The device of the first parameter or buffer; the CPU without any."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def train(self, mode: bool = True) -> VideoModel:
        """As ``nn.Module.train``; for the test, backbones learn to fold and fuse (``pack``)."""
        super().train(mode)
        if not mode:
            for module in list(self.modules()):
                if isinstance(module, Backbone):
                    pack(module)
        return self

    def frame_networks(self) -> list[nn.Module]:
        """The networks that see every frame whatever is in it: what ``MODEL.COMPILE`` compiles."""
        return [m for m in self.children() if isinstance(m, Backbone)]

    def autocast(self) -> torch.autocast:
        """Context for the networks at test; inactive for float32."""
        return torch.autocast(
            self.device.type, self.inference_dtype, enabled=self.inference_dtype != torch.float32
        )

    def require_weights(self) -> None:
        """Look once whether every trained part has its weights (``see_to_weights``).

        Raises:
            InputError: some part has none, and no option allows it.
        """
        see_to_weights(self)

    # Training ------------------------------------------------------------------------------------

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return scalar losses by name for training items (``data`` describes an item)."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    # Streams: online systems ---------------------------------------------------------------------

    def begin(self, info: VideoInfo) -> None:
        """Forget the last video; called once before the first ``segment``."""
        raise NotImplementedError(f"{type(self).__name__} is an offline system: use run_video")

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        """Segment one frame; frames come in order. ``new_masks``: objects that enter with it."""
        raise NotImplementedError(f"{type(self).__name__} is an offline system: use run_video")

    @property
    def object_ids(self) -> list[int]:
        """Ids of the objects that the stream follows; VOS systems."""
        raise NotImplementedError(f"{type(self).__name__} finds its objects itself")

    def drop_objects(self, ids: Sequence[int]) -> None:
        """Forget known objects; VOS systems."""
        raise NotImplementedError(f"{type(self).__name__} finds its objects itself")

    def summarise(self, record: TrackRecord) -> dict[int, float]:
        """Return ``{category: score}`` of a finished track."""
        return mean_score(record)

    def conclude(self, result: VideoResult) -> VideoResult:
        """Last word on a video's result: order, filters. The default leaves it as it is."""
        return result

    def start_video(self, info: VideoInfo) -> None:
        """Begin a stream."""
        self.begin(info)
        self._recorder = TrackRecorder(
            info, summarise=self.summarise, keep_empty=self.keep_empty_masks
        )

    @torch.no_grad()
    def step(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        """Segment the next frame of the stream.

        Args:
            frame: original uint8 pixels in ``input_format``.
            new_masks: ``{id: mask (H, W)}`` or a label map (H, W). Unknown ids start here. The mask
                of an id that is known replaces the prediction of this frame and stays a reference
                for the later ones, at most ``MODEL.MAX_REFERENCES`` a video.
        """
        if self._recorder is None:
            raise RuntimeError("start_video(info) begins a stream; it was not called")
        if frame.size != tuple(self._recorder.info.size):
            h, w = self._recorder.info.size
            raise InputError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]} but the video began with "
                f"{h}x{w} (rows x columns): start a new video for another size"
            )
        if new_masks is not None and not self.takes_masks:
            raise InputError(f"{type(self).__name__} finds its objects itself and takes no masks")
        result = self.segment(frame, new_masks)
        self._recorder.add(result)
        return result

    @torch.no_grad()
    def remove(self, ids: Sequence[int]) -> None:
        """Follow these objects no more, from the next frame on; what was found of them stays.

        A later mask of such an id starts it anew.

        Raises:
            InputError: an id that is not followed.
        """
        if not self.takes_masks:
            raise InputError(f"{type(self).__name__} finds its objects itself: none can be removed")
        unknown = sorted(set(ids) - set(self.object_ids))
        if unknown:
            known = ", ".join(map(str, sorted(self.object_ids))) or "none"
            raise InputError(f"remove: object {unknown[0]} is not followed (these are: {known})")
        if ids:
            self.drop_objects(sorted(set(ids)))

    def finish_video(self) -> VideoResult:
        """End the stream and return its tracks."""
        if self._recorder is None:
            raise RuntimeError("start_video(info) begins a stream; it was not called")
        result = self._recorder.finish()
        self._recorder = None
        return self.conclude(result)

    def reset(self) -> None:
        """End any stream without a result; the next image or video starts anew."""
        if self._recorder is not None:
            self._recorder.finish()
        self._recorder = None
        self._image_index = 0

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
        """Segment a whole video.

        Args:
            source: the frames.
            new_masks: for VOS, the masks given at each frame index (see ``step``). Corrections of
                known objects help the frames before them, too, back to the object's mask
                before (``MODEL.CORRECT_BACKWARD``), where the source can seek.
            info: what is known of the video; taken from the source by default.
            on_frame: called with every frame and its result, in order, before what a later
                correction changes.

        ``with reporting(on_progress): ...`` around it tells how far it is; see ``progress``.
        """
        self.start_video(info or VideoInfo(source.size, source.length, self.task))
        backward = self.takes_masks and self.correct_backward and source.seekable
        given = GivenMasks()
        try:
            for frame in steps(source, source.length, "frames"):
                masks = None if not new_masks else new_masks.get(frame.index)
                result = self.step(frame, masks)
                if backward and masks is not None:
                    given.note(frame.index, masks, frame.size)
                if on_frame is not None:
                    on_frame(frame, result)
            if self._recorder.info.keep_results:
                for correction in given.corrections:
                    follow_both_ways(self, source, correction, self._recorder)
        except BaseException:
            self.reset()
            raise
        return self.finish_video()

    def run_whole(
        self,
        source: FrameSource,
        new_masks: NewMasks | None,
        run: Callable[[FrameSource], VideoResult],
        *,
        on_frame: OnFrame | None = None,
    ) -> VideoResult:
        """What ``run_video`` of an offline system does around its own work.

        Args:
            new_masks: refused.
            run: gives the result of frames that can be sought and counted.
            on_frame: called with every frame and its result when all are known.

        Raises:
            InputError: masks are given, or a stream exceeds ``MODEL.SPOOL_LIMIT_MB``.
        """
        if new_masks:
            raise InputError(f"{type(self).__name__} finds its objects itself and takes no masks")
        if source.length == 0:
            return VideoResult([], tuple(source.size), 0)
        with seekable(source, self.spool_limit_mb) as frames:
            result = run(frames)
            if on_frame is not None:
                for frame, found in zip(frames, result.frames()):
                    on_frame(frame, found)
        return result

    # Detectron2's calling convention -------------------------------------------------------------

    def detect_image(self, frame: Frame) -> Instances:
        """Detections of one image, without ids (offline systems)."""
        raise NotImplementedError

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Training: the losses. Otherwise a VideoResult for every video, and for every image
        (Detectron2's ``DefaultPredictor``) a dict with ``instances``."""
        self.require_weights()
        if self.training:
            return self.losses(batched_inputs)
        return [
            self._video(item) if "frames" in item else self._image(item) for item in batched_inputs
        ]

    def _video(self, item: dict[str, Any]) -> VideoResult:
        source = item["frames"]
        info = VideoInfo(
            (item["height"], item["width"]), source.length, self.task, item.get("video_id")
        )
        masks = item.get("new_masks") if self.takes_masks else None
        return self.run_video(source, masks, info=info)

    @torch.no_grad()
    def _image(self, item: dict[str, Any]) -> dict[str, Instances]:
        if self.takes_masks:
            raise InputError(
                f"{type(self).__name__} needs the mask of the first frame: use "
                "VideoPredictor.start(masks=...) instead of a single image"
            )
        image = item["image"]
        _check_image(image)
        size = (item.get("height", image.shape[-2]), item.get("width", image.shape[-1]))
        # DefaultPredictor resizes and hands over floats; a test loader gives original pixels.
        resized = image.is_floating_point() or tuple(image.shape[-2:]) != tuple(size)
        output_size = size if resized else None
        if not self.online:
            return {"instances": self.detect_image(Frame(image, output_size=output_size))}
        if self._recorder is None or tuple(self._recorder.info.size) != tuple(size):
            self.reset()
            self.start_video(VideoInfo(size, None, self.task, keep_results=False))
        frame = Frame(image, self._image_index, output_size=output_size)
        self._image_index += 1
        return {"instances": self.step(frame).instances}


def _check_image(image: torch.Tensor) -> None:
    """Refuse what ``DefaultPredictor`` was given in another form than uint8 (H, W, 3).

    Of uint8 come floats without fractions, resized or not.

    Raises:
        InputError: not three channels, or fractions, as of an image scaled to 0..1.
    """
    if image.dim() != 3 or image.shape[0] != 3:
        raise InputError(
            f"image has {'x'.join(map(str, image.shape))} values (channels first): give a uint8 "
            "array (rows, columns, 3) in BGR order"
        )
    if image.is_floating_point() and bool((image != image.round()).any()):
        raise InputError(
            "image holds fractions: give a uint8 array (rows, columns, 3) of 0 to 255 in BGR order"
        )
