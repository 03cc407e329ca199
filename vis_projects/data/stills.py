"""Still images in Detectron2's dataset format, seen as videos of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def stills_as_videos(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one-frame videos of Detectron2 dataset dicts; an object's id is its index + 1.

    The original dict stays reachable under ``still``. Crowd regions keep their flag; samplers and
    the clip mapper drop them.
    """
    videos = []
    for record in records:
        annotations = None
        objects = []
        if record.get("annotations") is not None:
            annotations = [[{"id": i, **a} for i, a in enumerate(record["annotations"], 1)]]
            objects = [
                {"id": a["id"], "category_id": a["category_id"]}
                for a in annotations[0]
                if not a.get("iscrowd", 0)
            ]
        video = {
            "video_id": record["image_id"],
            "name": Path(str(record.get("file_name", record["image_id"]))).stem,
            "height": record["height"],
            "width": record["width"],
            "length": 1,
            "objects": objects,
            "annotations": annotations,
            "still": record,
        }
        if "source" in record:
            video["source"] = record["source"]
        else:
            video["file_names"] = [record["file_name"]]
        videos.append(video)
    return videos
