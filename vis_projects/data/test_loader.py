"""Videos at test: original frames, never resized, one video a batch, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.utils.data
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import InferenceSampler

from .catalog.registration import load_videos
from .detectron2_options import check_test_options
from .formats.label_maps import GivenMasks, LabelMapAnnotations
from .formats.video_record import Video, frame_names, frame_source


def given_masks(video: Video) -> Mapping[int, Any]:
    """Return the label maps in which a video's objects start; empty without such masks."""
    annotations, starts = video.get("annotations"), video.get("starts")
    if not starts or not isinstance(annotations, LabelMapAnnotations):
        return {}
    return GivenMasks(annotations, starts)


class TestMapper:
    """Turns a video dict into a test item.

    An item holds ``frames`` (a FrameSource in ``image_format``), ``video_id``, ``name``,
    ``height``, ``width``, ``length``, ``frame_names`` (stems of output files), ``file_names`` and
    ``task``. For VOS also ``new_masks`` (``{frame index: uint8 label map (H, W)}``, read on
    demand) and ``object_ids``; for YouTube-VOS ``scored_frames`` (indices); for stills
    ``image_id``, ``file_name`` and ``image`` (uint8 (3, H, W)) instead of ``frames``.
    """

    __test__ = False  # the name is no test class

    def __init__(self, *, image_format: str = "BGR", task: str = "vis") -> None:
        self.image_format = image_format
        self.task = task

    def __call__(self, video: Video) -> dict[str, Any]:
        keys = ("video_id", "name", "height", "width", "length")
        item: dict[str, Any] = {key: video[key] for key in keys}
        item["task"] = self.task
        source = frame_source(video, image_format=self.image_format)
        item["frame_names"] = frame_names(video)
        item["file_names"] = list(video.get("file_names", item["frame_names"]))
        if self.task == "stills":
            item.update(image=source[0].image, image_id=video["video_id"])
            item["file_name"] = item["file_names"][0]
            return item
        item["frames"] = source
        if self.task == "vos":
            item["new_masks"] = given_masks(video)
            item["object_ids"] = [o["id"] for o in video.get("objects") or ()]
        if "scored_frames" in video:
            item["scored_frames"] = list(video["scored_frames"])
        return item


class TestVideos(torch.utils.data.Dataset):
    """The test items of a data set by index."""

    __test__ = False

    def __init__(self, videos: list[Video], mapper: TestMapper) -> None:
        self.videos = videos
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.mapper(self.videos[index])


def as_list(batch: list[Any]) -> list[Any]:
    """Collate nothing: a batch is the list of its items."""
    return batch


def build_test_loader(cfg: CfgNode, name: str) -> torch.utils.data.DataLoader:
    """Return a loader over one data set: batches of one item, ``len()`` = this rank's videos.

    Raises:
        InputError: the data set is unknown, or its files are missing or broken.
    """
    check_test_options(cfg)
    videos = load_videos(name)
    task = MetadataCatalog.get(name).get("task", None)
    if task is None:
        task = "stills" if videos and "still" in videos[0] else "vis"
    dataset = TestVideos(videos, TestMapper(image_format=cfg.INPUT.FORMAT, task=task))
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=1,
        sampler=InferenceSampler(len(dataset)),
        num_workers=0,
        collate_fn=as_list,
    )
