"""Writes a synthetic set to disk in the format of a benchmark, to look at or for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

from ..catalog.registration import get_metadata, load_videos
from ..formats.video_record import frame_source
from .moving_shapes import parse_name

# PASCAL-VOC colours: bits of the index, three at a time, fill the channels from the top.
_PALETTE = [
    sum(((i >> (3 * bit + c)) & 1) << (7 - bit) for bit in range(3))
    for i in range(256)
    for c in range(3)
]


def export_synthetic(name: str, folder: str | Path, *, progress: bool = True) -> Path:
    """Write the frames and the ground truth of a synthetic set below ``folder``.

    VIS: ``instances.json`` and ``JPEGImages/``; stills: ``instances.json`` and ``images/``; UVOS
    and VOS: ``JPEGImages/`` and ``Annotations/``. All load as ``own_*`` sets. Frames are PNGs,
    without loss.

    Raises:
        InputError: no such synthetic set.
    """
    task = parse_name(name).task
    folder = Path(folder)
    images = folder / ("images" if task == "stills" else "JPEGImages")
    for video in tqdm(load_videos(name), desc=name, unit="video", disable=not progress):
        source = frame_source(video)
        for t in range(video["length"]):
            stem = f"{video['name']}" if task == "stills" else f"{video['name']}/{t:05d}"
            file = images / f"{stem}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), source.read(t))
            if task in ("uvos", "vos"):
                labels = Image.fromarray(video["annotations"].label_map(t)).convert("P")
                labels.putpalette(_PALETTE)
                target = folder / "Annotations" / f"{stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                labels.save(target)
    if task in ("vis", "stills"):
        truth = get_metadata(name).ground_truth_fn()
        (folder / "instances.json").write_text(json.dumps(truth))
    return folder
