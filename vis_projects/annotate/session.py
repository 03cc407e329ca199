"""One annotated video behind one local address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..video import VideoPredictor
from .following import Follower
from .frames import FrameStore
from .project import Project

# The system that follows without training; its trunk comes with the extra [pretrained].
DEFAULT_CONFIG = "configs/feature_match/lite0.yaml"


class Session:
    """Frames, state and worker of one video.

    Args:
        video: a video file or a folder of frames.
        project: folder of the annotations; ``<video>.annotations`` beside it by default.
        predictor: makes the system that follows or proposes.
        tell: takes the worker's events.
    """

    def __init__(
        self,
        video: str | Path,
        *,
        project: str | Path | None = None,
        predictor: Callable[[], VideoPredictor] | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        path = Path(video).expanduser()
        self.frames = FrameStore(path)
        folder = project or path.resolve().with_name(f"{path.resolve().name}.annotations")
        self.project = Project(
            folder, video=path.name, size=self.frames.size, length=self.frames.length
        )
        self.tell = tell
        make = predictor or (lambda: VideoPredictor(DEFAULT_CONFIG))
        self.follower = Follower(self.frames, self.project, make, lambda e: self.tell(e))

    def close(self) -> None:
        """Stop the worker and close the video."""
        self.follower.stop()
        self.follower.wait(10)
        self.frames.source.close()
