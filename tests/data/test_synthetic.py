"""The synthetic data set: fixed pixels, exact annotations, what the standard set promises."""

from __future__ import annotations

import hashlib
import pickle

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from pycocotools import mask as mask_util

from vis_projects.data import (
    frame_source,
    get_metadata,
    given_masks,
    load_videos,
    num_identities,
    parse_name,
)
from vis_projects.data.synthetic import scene_of
from vis_projects.data.synthetic.render import render_frame
from vis_projects.data.synthetic.scene import Scene, SceneOptions
from vis_projects.structures import InputError

# Figures on synthetic_val are comparable only as long as these stay.
LABELS_SHA256 = "76aecdbf2183d7ce6a1bb275eb4d87379df34da30edca970a40b936e4a07369f"
FRAMES_SHA256 = "d1c2a14be078b53ad3bbeb1c13cafa1abd45f1949968562eaafb904e7e9ac152"


@pytest.fixture(scope="module")
def rendered():
    """Return (scene, frames, label maps) of every video of the standard validation set."""
    out = []
    for video in load_videos("synthetic_val"):
        seed, options, *_ = video["source"].args
        scene = scene_of(seed, options)
        pairs = [render_frame(scene, t, split=1) for t in range(video["length"])]
        out.append((scene, np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])))
    return out


def test_the_standard_validation_set_is_fixed(rendered):
    labels, frames = hashlib.sha256(), hashlib.sha256()
    for _, images, maps in rendered:
        frames.update(images.tobytes())
        labels.update(maps.tobytes())
    assert labels.hexdigest() == LABELS_SHA256
    assert frames.hexdigest() == FRAMES_SHA256


def test_the_standard_validation_set_keeps_its_promises(rendered):
    assert len(rendered) == 50
    occluded, returns = [], 0
    for scene, _, labels in rendered:
        assert scene.count >= 3
        a, b = scene.twins
        assert a != b and scene.categories[a] == scene.categories[b]
        assert np.abs(scene.colours[a] - scene.colours[b]).max() < 40  # of 255: similar look
        visible = np.stack([np.bincount(m.ravel(), minlength=scene.count + 1)[1:] for m in labels])
        assert (visible[0] >= 40).all()  # masks of frame 0 can be handed over
        alone = np.zeros_like(visible)
        for t in range(len(labels)):
            alone[t] = scene.full_areas(t)
        occluded += list(((alone > 40) & (visible < 0.8 * alone)).any(0))
        returns += sum(_leaves_and_returns(visible[:, i]) for i in range(scene.count))
    assert np.mean(occluded) >= 1 / 3
    assert returns >= 20


def _leaves_and_returns(visible: np.ndarray) -> bool:
    seen = np.flatnonzero(visible)
    return bool(seen[-1] - seen[0] + 1 > len(seen))


def test_frames_do_not_depend_on_order_or_length():
    short = load_videos("synthetic_train:videos=1:length=3")[0]
    long = load_videos("synthetic_train:videos=1:length=9")[0]
    a, b = frame_source(short), frame_source(long)
    late = b.read(8)
    assert all(np.array_equal(a.read(t), b.read(t)) for t in (2, 0, 1))
    assert np.array_equal(b.read(8), late)
    assert np.array_equal(frame_source(long, image_format="RGB").read(8), late[..., ::-1])


def test_a_step_leaves_frames_out():
    """Every third frame of the same scenes, in pictures, masks and ground truth."""
    every = load_videos("synthetic_val:videos=2:length=7")
    third = load_videos("synthetic_val:videos=2:length=3:step=3")
    for a, b in zip(every, third):
        one, other = frame_source(a), pickle.loads(pickle.dumps(frame_source(b)))
        assert len(other) == 3
        for t in range(3):
            assert np.array_equal(one.read(3 * t), other.read(t))
            assert np.array_equal(a["annotations"].label_map(3 * t), b["annotations"].label_map(t))


def test_sources_and_annotations_can_be_pickled():
    video = load_videos("synthetic_train:videos=1:length=3")[0]
    copy = pickle.loads(pickle.dumps(video))
    assert np.array_equal(frame_source(copy).read(1), frame_source(video).read(1))
    assert np.array_equal(copy["annotations"].label_map(1), video["annotations"].label_map(1))


def test_the_annotated_masks_are_the_drawn_ones():
    for video in load_videos("synthetic_train:videos=4:length=3"):
        seed, options, *_ = video["source"].args
        for t in range(3):
            _, labels = render_frame(scene_of(seed, options), t)
            objects = video["annotations"][t]
            assert [o["id"] for o in objects] == [i for i in np.unique(labels) if i]
            for o in objects:
                assert np.array_equal(o["segmentation"], labels == o["id"])
                x0, y0, x1, y1 = (int(n) for n in o["bbox"])
                assert o["segmentation"][y0:y1, x0:x1].sum() == o["segmentation"].sum()
                assert o["segmentation"][y0].any() and o["segmentation"][:, x1 - 1].any()


def test_classes_can_be_told_by_hue_only_in_the_easy_set():
    def hues(difficulty: str) -> list[tuple[int, float]]:
        out = []
        for seed in range(60):
            scene = Scene(seed, SceneOptions(difficulty=difficulty))
            for c, (_, light) in zip(scene.categories, scene.colours):
                pixel = np.uint8(light).reshape(1, 1, 3)
                out.append((int(c), cv2.cvtColor(pixel, cv2.COLOR_BGR2HSV)[0, 0, 0] * 2.0))
        return out

    def nearest(hue: float) -> int:
        return int(np.argmin([abs((hue - 90 * c + 180) % 360 - 180) for c in range(4)]))

    assert np.mean([nearest(h) == c for c, h in hues("easy")]) == 1
    assert np.mean([nearest(h) == c for c, h in hues("hard")]) < 0.5


def test_larger_frames_show_the_same_scene():
    small, large = Scene(5, SceneOptions()), Scene(5, SceneOptions(size=(192, 320)))
    reduced = large.label_map(3)[::2, ::2]
    assert np.mean(reduced == small.label_map(3)) > 0.97
    image, labels = render_frame(Scene(5, SceneOptions(size=(360, 640))), 3)
    assert image.shape == (360, 640, 3) and labels.shape == (360, 640)


def test_ground_truth_in_memory():
    truth = get_metadata("synthetic_val").ground_truth_fn()
    videos = load_videos("synthetic_val")
    assert len(truth["annotations"]) == num_identities(["synthetic_val"])
    first = truth["annotations"][0]
    video = next(v for v in videos if v["video_id"] == first["video_id"])
    for t, rle in enumerate(first["segmentations"]):
        wanted = video["annotations"].label_map(t) == video["objects"][0]["id"]
        assert np.array_equal(mask_util.decode(rle), wanted) if rle else not wanted.any()
    maps = get_metadata("synthetic_vos_val").ground_truth_fn()
    assert maps["synthetic_val_0000"].shape == (20, 96, 160)


def test_every_task_gets_what_it_needs():
    vos = load_videos("synthetic_vos_val")[0]
    masks = given_masks(vos)
    assert list(masks) == [0]
    assert set(np.unique(masks[0])) == {0, *(o["id"] for o in vos["objects"])}
    assert get_metadata("synthetic_vos_val").thing_classes == ["object"]
    assert get_metadata("synthetic_uvos_val").evaluator_type == "davis_unsup"
    stills = DatasetCatalog.get("synthetic_stills_val")
    assert {"file_name", "image_id", "annotations"} <= set(stills[0])
    truth = get_metadata("synthetic_stills_val").ground_truth_fn()
    assert len(truth["annotations"]) == sum(len(s["annotations"]) for s in stills)


def test_training_and_validation_seeds_are_disjoint():
    def seeds(name: str) -> set[int]:
        return {v["source"].args[0] for v in load_videos(name)}

    train = seeds("synthetic_train") | seeds("synthetic_train:videos=20:seed=9")
    assert not train & seeds("synthetic_val")
    assert seeds("synthetic_uvos_val") == seeds("synthetic_val")


@pytest.mark.parametrize(
    "name",
    ["synthetic_test", "synthetic_val:size=10x10", "synthetic_val:length=0", "synthetic_val:foo=1",
     "synthetic_train:difficulty=odd", "synthetic_train:seed=10", "synthetic_train:videos",
     "synthetic_val:step=0"],
)  # fmt: skip
def test_wrong_names_are_explained(name):
    with pytest.raises(InputError, match="synthetic"):
        parse_name(name)
