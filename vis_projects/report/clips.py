"""Short loops of test videos beside their ground truth, as data that stand in a page."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

from ..data.formats.video_record import frame_source
from ..engine.showcase import true_objects
from ..structures import FrameResult, VideoResult
from ..video import OverlayPainter, VideoWriter, side_by_side

_FRAMES, _ROWS, _FPS = 48, 300, 10.0  # of a loop, so that a page stays small (chosen)


def loop(
    video: dict[str, Any],
    result: VideoResult,
    *,
    class_names: list[str] | None,
    threshold: float,
    image_format: str = "BGR",
) -> str:
    """Return an mp4 of at most 48 frames as a ``data:`` address: prediction and ground truth."""
    source = frame_source(video, image_format=image_format)
    step = max(1, -(-result.length // _FRAMES))
    painters = [
        OverlayPainter(image_format, class_names, show_scores=s, rows=_ROWS) for s in (True, False)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "loop.mp4"
        with VideoWriter(file, fps=source.fps / step if source.fps else _FPS, crf=30) as writer:
            for t, drawn in enumerate(result.frames()):
                if t % step:
                    continue
                shown = drawn.instances[drawn.instances.scores >= threshold]
                frame = source[t]
                pair = [
                    painters[0].draw(frame, FrameResult(shown, t)),
                    painters[1].draw(frame, true_objects(video, t)),
                ]
                writer.add(side_by_side(*pair, ("prediction", "ground truth")))
        data = file.read_bytes()
    return "data:video/mp4;base64," + base64.b64encode(data).decode()
