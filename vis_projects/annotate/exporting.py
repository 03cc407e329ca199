"""A project's masks in the formats of others, below ``<project>/exports``."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from ..structures import Frame, FrameResult, InputError
from ..structures.exports import write_pair
from ..video import OverlayPainter, VideoWriter
from .session import Session

KINDS = ("davis", "ytvis", "coco", "overlay")


def export(session: Session, kind: str) -> list[Path]:
    """Write one format and return what was written.

    ``davis``: ``JPEGImages``-like indexed PNGs; ``ytvis``: ``results.json`` and ``video.json``;
    ``coco``: a data set with ``track_id``; ``overlay``: an mp4.

    Raises:
        InputError: an unknown kind, or a project without a mask.
    """
    if kind not in KINDS:
        raise InputError(f"export {kind!r} is unknown: use {', '.join(KINDS)}")
    result = session.project.result()
    if not result.tracks:
        raise InputError("there is no mask to export yet")
    source = session.frames.source
    result.frame_names = [source.name(t) for t in range(result.length)]
    place = session.project.folder / "exports"
    place.mkdir(exist_ok=True)
    if kind == "overlay":
        return [_overlay(session, place / "overlay.mp4")]
    if kind == "coco":
        part = place / ".coco.json.part"
        part.write_text(json.dumps(result.to_coco()))
        part.replace(place / "coco.json")
        return [place / "coco.json"]
    part = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=place))
    try:
        files = result.to_davis(part) if kind == "davis" else write_pair(result, part)
        shutil.rmtree(place / kind, ignore_errors=True)
        part.chmod(0o755)
        part.rename(place / kind)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [place / kind / file.name for file in files]


def _overlay(session: Session, file: Path) -> Path:
    project, source = session.project, session.frames.source
    result = project.result()
    painter = OverlayPainter("BGR", result.class_names)
    with VideoWriter(file, fps=source.fps or 24.0) as writer:
        for t, shown in enumerate(result.frames()):
            frame: Frame = source[t]
            writer.add(painter.draw(frame, FrameResult(shown.instances, t)), frame.time)
    return file
