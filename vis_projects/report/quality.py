"""How good every video of a test set came out: for the choice of what a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vis_metrics.files.ytvis_files import read_ground_truth
from vis_metrics.region_boundary import sequence_measures
from vis_metrics.ytvis import tube_iou

from ..data.clips.clip_mapper import read_objects
from ..structures import VideoResult
from .run_folder import TestSet

_MOST_SEQUENCES = 12  # whose J and F over time are drawn


def video_qualities(test: TestSet, results: Mapping[Any, VideoResult]) -> dict[Any, float]:
    """Return a quality in [0, 1] by video id; videos without an object are left out.

    Tracks: the mean over a video's objects of the best tube IoU that a track of the object's class
    reaches. Masks of given objects: mean J over frames and objects.
    """
    if test.kind == "ytvis":
        return _track_qualities(test, results)
    out = {}
    for video in test.videos:
        if video["video_id"] in results:
            measured = measures_over_time(test, video, results[video["video_id"]])
            if measured is not None:
                out[video["video_id"]] = float(np.nanmean(measured[0]))
    return out


def _track_qualities(test: TestSet, results: Mapping[Any, VideoResult]) -> dict[Any, float]:
    content = test.truth()
    truth = None if content is None else read_ground_truth(content)
    if truth is None or truth.annotations is None:
        return {}
    contiguous = test.metadata.get("thing_dataset_id_to_contiguous_id", {})
    out = {}
    for video in test.videos:
        key = video["video_id"]
        objects = [a for a in truth.annotations.get(key, []) if not a.get("iscrowd", 0)]
        if key not in results or not objects:
            continue
        tracks = [t for t in results[key].tracks if t.visible_frames]
        iou, _ = tube_iou(
            [t.masks for t in tracks],
            [a["segmentations"] for a in objects],
            length=video["length"],
        )
        best = []
        for g, thing in enumerate(objects):
            category = contiguous.get(thing["category_id"], -1)
            fitting = [iou[d, g] for d, t in enumerate(tracks) if category in t.category_scores]
            best.append(max(fitting, default=0.0))
        out[key] = float(np.mean(best))
    return out


def measures_over_time(
    test: TestSet, video: dict[str, Any], result: VideoResult
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return J and F (T,) of a video, the mean over its objects; NaN where nothing is annotated.

    ``davis_2016`` compares the union of all tracks; ids of a VOS result are the objects' own. None
    for unsupervised results of several objects, whose ids mean nothing by themselves.
    """
    if test.kind not in ("davis_2016", "davis_semi", "ytvos"):
        return None
    gt, ours = [], []
    for t, labels in enumerate(result.label_maps()):
        objects = read_objects(video, t)
        true = np.zeros(labels.shape, np.uint8)
        for identity, mask in zip(objects.ids.tolist(), objects.masks):
            true[mask.astype(bool)] = identity
        gt.append(true)
        ours.append(np.where(labels > 254, 0, labels).astype(np.uint8))
    if not gt:
        return None
    true, found = np.stack(gt), np.stack(ours)
    if test.kind == "davis_2016":
        true, found = (true > 0).astype(np.uint8), (found > 0).astype(np.uint8)
    ids = [int(i) for i in np.unique(true) if i != 0]
    if not ids:
        return None
    number = np.zeros(256, np.uint8)
    number[ids] = np.arange(1, len(ids) + 1)
    region, boundary = sequence_measures(
        number[true], number[found], num_gt=len(ids), num_results=len(ids)
    )
    own = np.arange(len(ids))
    series = region[:, own, own].mean(1), boundary[:, own, own].mean(1)
    annotated = (true > 0).any((1, 2))
    annotated[0] = False  # the first frame is given
    for values in series:
        values[~annotated] = np.nan
    return series if annotated.any() else None


def chosen_videos(qualities: Mapping[Any, float]) -> dict[str, Any]:
    """Return the ids of the best, the median and the worst video."""
    order = sorted(qualities, key=lambda key: (-qualities[key], str(key)))
    if not order:
        return {}
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    if len(order) < 3:
        del places["median"]
    chosen = {title: order[place] for title, place in places.items()}
    if len(order) == 1:
        del chosen["worst"]
    return chosen


def sequences_over_time(
    test: TestSet, results: Mapping[Any, VideoResult], qualities: Mapping[Any, float]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return J and F over time of at most twelve sequences, the worst first."""
    videos = {video["video_id"]: video for video in test.videos}
    worst = sorted(qualities, key=lambda key: qualities[key])[:_MOST_SEQUENCES]
    out = {}
    for key in worst:
        measured = measures_over_time(test, videos[key], results[key])
        if measured is not None:
            out[str(videos[key]["name"])] = measured
    return out
