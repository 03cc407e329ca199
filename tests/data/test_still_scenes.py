"""Videos made of stills: names, held-out images, labels, repetition from a seed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from vis_projects import get_cfg
from vis_projects.data import get_metadata, load_videos, unregister_dataset
from vis_projects.data.formats.label_maps import VOID
from vis_projects.data.synthetic.still_pool import StillPool, still_pool
from vis_projects.data.synthetic.still_scenes import StillScene, parse_name
from vis_projects.evaluation import build_evaluator
from vis_projects.structures import InputError, Track, VideoResult, encode_masks


@pytest.fixture
def stills(tmp_path, monkeypatch):
    """Eight stills: a bright disc on grey noise, and a crowd that must be left out."""
    (tmp_path / "images").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    rng = np.random.default_rng(0)
    for k in range(8):
        image = rng.integers(60, 120, (120, 160, 3)).astype(np.uint8)
        cv2.circle(image, (70 + k, 60), 30, (0, 250, 250), -1)
        cv2.imwrite(str(tmp_path / f"images/{k}.png"), image)
        content["images"].append(
            {"id": k + 1, "file_name": f"{k}.png", "height": 120, "width": 160}
        )
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = np.stack([70 + k + 30 * np.cos(angle), 60 + 30 * np.sin(angle)], 1).ravel()
        common = {"image_id": k + 1, "category_id": 1, "area": 2827.0}
        content["annotations"].append(
            {**common, "id": 2 * k + 1, "iscrowd": 0, "bbox": [40 + k, 30, 60, 60],
             "segmentation": [outline.tolist()]}
        )  # fmt: skip
        content["annotations"].append(
            {**common, "id": 2 * k + 2, "iscrowd": 1, "bbox": [0, 0, 160, 120],
             "segmentation": {"size": [120, 160], "counts": [0, 120 * 160]}}
        )  # fmt: skip
    (tmp_path / "stills.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = "still_scenes:stills.json:images:videos=6:length=4:size=96x128"
    yield name
    for split in ("", ":split=val", ":task=uvos"):
        unregister_dataset(name + split)


def test_labels_follow_the_pixels(stills):
    videos = load_videos(stills)
    assert len(videos) == 6 and get_metadata(stills).evaluator_type == "davis_semi"
    seen, agree = 0, []
    for video in videos:
        source = video["source"]("BGR")
        for t in range(4):
            image, labels = source.read(t), video["annotations"].label_map(t)
            assert image.shape == (96, 128, 3) and labels.max() <= len(video["objects"])
            yellow = image[..., 2].astype(int) - image[..., 0] > 70
            if (labels > 0).sum() > 50:
                seen += 1
                agree.append(((labels > 0) & yellow).sum() / ((labels > 0) | yellow).sum())
    assert seen > 12 and np.mean(agree) > 0.75


def test_objects_move_and_a_seed_gives_the_same_video(stills):
    video = load_videos(stills)[0]
    first = [video["source"]("RGB").read(t) for t in (0, 3)]
    assert not np.array_equal(*first)
    from vis_projects.data.synthetic import still_scenes

    still_scenes.still_scene.cache_clear()
    assert np.array_equal(first[1], video["source"]("RGB").read(3))


def test_held_out_stills_are_others(stills):
    json_file = stills.split(":")[1]
    train, val = (StillPool(json_file, "images", s) for s in ("train", "val"))
    names = [{v["name"] for v in pool.videos} for pool in (train, val)]
    assert len(names[0]) == 6 and len(names[1]) == 2 and not names[0] & names[1]
    assert {v["video_id"] for v in load_videos(stills + ":split=val")}.isdisjoint(
        v["video_id"] for v in load_videos(stills)
    )
    load_videos(stills + ":task=uvos")
    assert get_metadata(stills + ":task=uvos").task == "uvos"


def test_one_foreground_is_the_union_of_the_objects(stills):
    """A result with all objects in one track is perfect under the protocol of 2016 alone."""
    cfg, scores = get_cfg(), {}
    cfg.TEST.METRIC_WORKERS = 0
    for protocol in ("", ":protocol=2016"):
        name = f"{stills}:task=uvos{protocol}"
        try:
            videos = load_videos(name)
            evaluator = build_evaluator(cfg, name, None)
            for video in videos:
                maps = [video["annotations"].label_map(t) for t in range(4)]
                union = [encode_masks((m > 0)[None])[0] for m in maps]
                track = Track(1, {0: 1.0}, union)
                result = VideoResult([track], (96, 128), 4)
                evaluator.process([video], [result])
            scores[protocol] = evaluator.evaluate()["vos"]["J&F"]
            assert max(len(video["objects"]) for video in videos) > 1
        finally:
            unregister_dataset(name)
    assert scores[":protocol=2016"] == pytest.approx(100)
    assert scores[""] < 95


def test_main_objects_are_the_subjects_of_stills(stills, tmp_path):
    file = tmp_path / "stills.json"
    content = json.loads(file.read_text())
    for k in range(8):  # a middling one that nothing is learned of, and a small one
        for n, (x, y, w, h) in enumerate(((2, 2, 30, 20), (120, 100, 10, 10))):
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            content["annotations"].append(
                {"id": 100 + 2 * k + n, "image_id": k + 1, "category_id": 1, "iscrowd": 0,
                 "bbox": [x, y, w, h], "area": float(w * h), "segmentation": [corners]}
            )  # fmt: skip
    file.write_text(json.dumps(content))
    still_pool.cache_clear()
    pool = still_pool("stills.json", "images", "train", str(tmp_path))
    void = 0
    for seed in range(8):
        scene = StillScene(seed, pool, (96, 128), 4, objects="main")
        assert scene.native == 1  # the disc
        void += (scene.labels == VOID).any()
        areas = np.bincount(scene.labels.ravel(), minlength=256)
        assert areas[1] > 1700 and areas[2:VOID].sum() == 0
        everything = StillScene(seed, pool, (96, 128), 4)
        assert everything.native == 2 and VOID not in everything.labels
    assert void == 8
    name = stills + ":objects=main"
    try:
        video = load_videos(name)[0]
        assert VOID not in video["starts"].get(0, [])
        assert all(o["id"] < VOID for t in range(4) for o in video["annotations"][t])
    finally:
        unregister_dataset(name)


@pytest.mark.parametrize(
    "part", ["size=9", "split=test", "videos=0", "colour=1", "objects=few", "protocol=2017"]
)
def test_bad_options_are_named(part):
    with pytest.raises(InputError, match=f"{part}.*is no option"):
        parse_name(f"still_scenes:a.json:images:{part}")
    with pytest.raises(InputError, match="JSON:IMAGES"):
        parse_name("still_scenes:a.json")
