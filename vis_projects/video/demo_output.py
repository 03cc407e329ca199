"""Everything that ``demo.py`` writes: an overlay video, indexed PNGs, results.json.

The outputs are made in a hidden folder beside the wanted one, which takes its place at the end:
an error leaves nothing half-written.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from vis_metrics.files.writing import write_label_map

from ..structures import Frame, FrameResult, FrameSource, InputError, VideoResult
from .drawing import draw_frame
from .predictor import VideoPredictor
from .writing import VideoWriter


def read_first_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask of object ids: uint8 (H, W).

    A grey mask that holds only 0 and 255 (DAVIS 2016) is one object, id 1.

    Raises:
        InputError: missing, no image, an RGB image, another size than the video, or no object.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L", "1", "I"):
                raise InputError(
                    f"{file}: a mask is a palette or grey PNG whose values are object ids, "
                    f"this one is {image.mode}; convert its colours to ids first"
                )
            labels = np.asarray(image).astype(np.uint8)
    except FileNotFoundError:
        raise InputError(f"{file}: no such mask file") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{file}: no readable image ({error}); save it as PNG again") from None
    if labels.shape != tuple(size):
        raise InputError(
            f"{file}: the mask is {labels.shape[0]}x{labels.shape[1]} but the video is "
            f"{size[0]}x{size[1]} (rows x columns): give a mask of the frame's size"
        )
    present = np.unique(labels)
    if set(present.tolist()) <= {0, 255}:
        labels = (labels > 0).astype(np.uint8)
    if not labels.any():
        raise InputError(f"{file}: the mask is empty: mark at least one object")
    return np.where(labels == 255, 0, labels)


def run_demo(
    predictor: VideoPredictor,
    source: FrameSource,
    output: Path,
    *,
    masks: Any = None,
    fps: float | None = None,
    max_frames: int | None = None,
    score_threshold: float = 0.0,
    overwrite: bool = False,
) -> list[str]:
    """Segment ``source`` and write ``overlay.mp4``, ``masks/<frame>.png`` and ``results.json``.

    Args:
        predictor: the system.
        source: the video.
        output: folder; it must be new or empty unless ``overwrite``.
        masks: first-frame masks for VOS.
        fps: of the overlay; by default the source's, or 24.
        max_frames: stop after this many frames.
        score_threshold: tracks below it are not drawn nor written.

    Returns:
        One line per output, for the user.

    Raises:
        InputError: bad input, or an output folder that is not empty.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; name a folder for the outputs")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(f"{output}: this folder is not empty; name another, or use --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        lines = _write_all(
            predictor,
            source,
            hidden,
            masks=masks,
            fps=fps or source.fps or 24.0,
            max_frames=max_frames,
            score_threshold=score_threshold,
        )
        if output.is_dir():
            shutil.rmtree(output)
        os.chmod(hidden, 0o755)
        os.replace(hidden, output)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return [line.format(folder=output) for line in lines]


def _write_all(
    predictor: VideoPredictor,
    source: FrameSource,
    folder: Path,
    *,
    masks: Any,
    fps: float,
    max_frames: int | None,
    score_threshold: float,
) -> list[str]:
    if max_frames is not None:
        source = FirstFrames(source, max_frames)
    total = source.length
    pairs = _pairs(predictor, source, masks)
    drawn = 0
    with VideoWriter(folder / "overlay.mp4", fps=fps) as video:
        for frame, result in tqdm(pairs, total=total, unit="frame", desc="segmenting"):
            result.instances = result.instances[result.instances.scores >= score_threshold]
            image = draw_frame(
                frame,
                result,
                image_format=source.image_format,
                class_names=None if predictor.model.takes_masks else predictor.class_names,
            )
            video.add(image)
            drawn += 1
    if drawn == 0:
        raise InputError("the input has no frame")
    video_result = predictor.video_result
    maps = video_result.label_maps(min_score=score_threshold)
    for index, labels in enumerate(maps):
        write_label_map(folder / "masks" / f"{source.name(index)}.png", labels)
    summary = _summary(predictor, source, video_result, score_threshold)
    (folder / "results.json").write_text(json.dumps(summary))
    tracks = len(summary["tracks"])
    return [
        f"{{folder}}/overlay.mp4: {drawn} frames at {fps:g} fps",
        f"{{folder}}/masks/: {video_result.length} indexed PNGs",
        f"{{folder}}/results.json: {tracks} track{'s' if tracks != 1 else ''}",
    ]


def _pairs(
    predictor: VideoPredictor, source: FrameSource, masks: Any
) -> Iterator[tuple[Frame, FrameResult]]:
    """Every frame with its result; online systems see the frame as it passes."""
    if not predictor.model.online:
        yield from zip(iter(source), predictor(source, masks=masks))
        return
    passing = _Tee(source)
    for result in predictor(passing, masks=masks):
        yield passing.last, result


class _Wrapper(FrameSource):
    """A source that is read through another."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__(image_format=source.image_format)
        self.source = source
        self.seekable = source.seekable

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    @property
    def length(self) -> int | None:
        return self.source.length

    @property
    def fps(self) -> float | None:
        return self.source.fps

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> np.ndarray:
        return self.source.read(index)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.source)


class _Tee(_Wrapper):
    """Remembers the frame that was read last."""

    last: Frame

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.source:
            self.last = frame
            yield frame


class FirstFrames(_Wrapper):
    """The first ``count`` frames of a source."""

    def __init__(self, source: FrameSource, count: int) -> None:
        super().__init__(source)
        if count < 1:
            raise InputError(f"--max-frames {count}: at least one frame is needed")
        self.count = count

    @property
    def length(self) -> int | None:
        return self.count if self.source.length is None else min(self.count, self.source.length)

    def __iter__(self) -> Iterator[Frame]:
        return islice(iter(self.source), self.count)


def _summary(
    predictor: VideoPredictor,
    source: FrameSource,
    result: VideoResult,
    score_threshold: float,
) -> dict[str, Any]:
    names = predictor.class_names
    tracks = []
    for track in result.tracks:
        if track.score < score_threshold:
            continue
        known = names is not None and track.category < len(names)
        tracks.append(
            {
                "id": track.id,
                "category": names[track.category] if known else track.category,
                "score": track.score,
                "category_scores": {str(c): s for c, s in track.category_scores.items()},
                "segmentations": track.masks,
            }
        )
    return {
        "system": type(predictor.model).__name__,
        "height": result.size[0],
        "width": result.size[1],
        "frames": [source.name(i) for i in range(result.length)],
        "tracks": tracks,
    }
