"""Images, masks, boxes and ids stay together under every operation."""

from __future__ import annotations

from copy import deepcopy

import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects import get_cfg
from vis_projects.data import Clip, ClipItem, ClipMapper, Objects, load_videos, read_clip
from vis_projects.data.clips.clip import boxes_of_masks, crop, finish_boxes, flip, pad, resize, warp
from vis_projects.data.clips.clip_augmentation import (
    jitter_colour,
    random_blur,
    random_crop,
    random_flip,
    random_resize,
    random_reverse,
    random_scale,
    scaled_size,
    shift_colour,
)
from vis_projects.data.clips.instance_duplicator import duplicate_instance
from vis_projects.data.clips.pseudo_clips import (
    WarpOptions,
    affine_clip,
    affine_matrix,
    perspective_matrix,
    rotation_clip,
    warp_frame,
)
from vis_projects.structures import InputError

GREY = 50  # an object's id is written into the picture as id * GREY


def coded_clip(seed: int = 0, frames: tuple[int, ...] = (0, 3)) -> Clip:
    """Return a synthetic clip whose pictures spell out the ids."""
    video = load_videos("synthetic_train:videos=12:length=6")[seed % 12]
    clip = read_clip(video, ClipItem(0, frames))
    for f, objects in enumerate(clip.objects):
        picture = (objects.masks * objects.ids[:, None, None]).sum(0) * GREY
        clip.images[f] = np.repeat(picture[..., None], 3, 2).astype(np.uint8)
    return clip


def check(clip: Clip, *, names: dict[int, int] | None = None) -> None:
    """Masks agree with the coded picture wherever it is flat, boxes with the masks."""
    for f, (image, objects) in enumerate(zip(clip.images, clip.objects)):
        height, width = clip.size
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
        assert objects.masks.shape == (len(objects), height, width)
        assert len(set(objects.ids.tolist())) == len(objects) and (objects.ids > 0).all()
        plane = image[..., 0]
        flat = cv2.dilate(plane, np.ones((3, 3))) == cv2.erode(plane, np.ones((3, 3)))
        if clip.valid[f] is not None:
            flat &= cv2.erode(clip.valid[f].astype(np.uint8), np.ones((3, 3))) > 0
        code = np.zeros((height, width), np.int64)
        for i, mask in zip(objects.ids, objects.masks):
            assert mask.max(initial=0) <= 1
            assert not (code[mask > 0]).any()  # disjoint
            code[mask > 0] = (names or {}).get(int(i), int(i)) * GREY
        assert flat.mean() > 0.1
        assert (code[flat] == plane[flat]).all()
        for box, mask in zip(objects.boxes, objects.masks):
            inside = np.zeros_like(mask)
            x0, y0 = np.floor(box[:2] + 1e-3).astype(int)
            x1, y1 = np.ceil(box[2:] - 1e-3).astype(int)
            inside[max(y0, 0) : y1, max(x0, 0) : x1] = 1
            assert not (mask & ~inside & 1).any()
            assert (box[2:] <= [width, height]).all() and (box >= 0).all()


OPERATIONS = {
    "flip": lambda c, r: flip(c),
    "resize": lambda c, r: resize(c, 61, 133),
    "enlarge": lambda c, r: resize(c, 150, 260),
    "area": lambda c, r: resize(c, 61, 133, kind="area_bicubic"),
    "crop": lambda c, r: crop(c, 10, 31, 70, 90),
    "pad": lambda c, r: pad(c, 128, 192),
    "random_flip": lambda c, r: random_flip(c, r, prob=0.5),
    "random_resize": lambda c, r: random_resize(c, r, short=(64, 128), max_long=200, style="range"),
    "random_scale": lambda c, r: random_scale(c, r, low=0.7, high=1.4),
    "random_crop": lambda c, r: random_crop(c, r, size=(60, 80), style="instance"),
    "rotation": lambda c, r: rotation_clip(c, degrees=25),
    "warp_frame": lambda c, r: warp_frame(
        c, 1, r, WarpOptions(value=0, hue_saturation=0, blur_prob=0)
    ),
    "affine": lambda c, r: affine_clip(c, r, WarpOptions(value=0, hue_saturation=0, blur_prob=0)),
    "reverse": lambda c, r: random_reverse(c, r, prob=1.0),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_operations_keep_pictures_and_masks_together(name, seed):
    clip = coded_clip(seed)
    before = {int(i): int(c) for o in clip.objects for i, c in zip(o.ids, o.classes)}
    OPERATIONS[name](clip, np.random.default_rng(seed))
    finish_boxes(clip, min_pixels=1, from_masks=False)
    check(clip)
    for objects in clip.objects:
        assert all(before[int(i)] == c for i, c in zip(objects.ids, objects.classes))


@pytest.mark.parametrize("seed", range(3))
def test_operations_in_a_row(seed):
    clip = coded_clip(seed, (0, 2, 4))
    rng = np.random.default_rng(seed)
    for name in ("random_flip", "random_scale", "random_crop", "random_resize", "pad"):
        OPERATIONS[name](clip, rng)
    finish_boxes(clip, min_pixels=1, from_masks=False)
    check(clip)


def test_flipping_twice_is_nothing():
    clip = coded_clip()
    before = deepcopy(clip)
    flip(clip)
    assert not np.array_equal(clip.images[0], before.images[0])
    flip(clip)
    for f in range(2):
        assert np.array_equal(clip.images[f], before.images[f])
        assert np.array_equal(clip.objects[f].masks, before.objects[f].masks)
        assert np.array_equal(clip.objects[f].boxes, before.objects[f].boxes)


def test_masks_are_resized_as_pillow_does():
    rng = np.random.default_rng(0)
    for old, new in [((37, 53), (61, 40)), ((96, 160), (33, 57)), ((40, 40), (90, 91))]:
        mask = (rng.random(old) < 0.5).astype(np.uint8)
        objects = Objects(mask[None], *[np.ones(1, np.int64)] * 3, np.zeros((1, 4), np.float32))
        clip = Clip([np.repeat(mask[..., None] * 200, 3, 2)], [objects])
        resize(clip, *new)
        pillow = Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST)
        assert np.array_equal(clip.objects[0].masks[0], np.asarray(pillow))


def test_sizes_are_those_of_detectron2():
    from detectron2.data.transforms import ResizeShortestEdge

    for size in [(480, 854), (720, 1280), (1280, 720), (333, 500), (96, 160)]:
        image = np.zeros((*size, 3), np.uint8)
        transform = ResizeShortestEdge((360, 360), 640).get_transform(image)
        assert scaled_size(size, 360, 640) == (transform.new_h, transform.new_w)


def test_boxes_of_masks_against_a_loop():
    rng = np.random.default_rng(1)
    masks = np.zeros((5, 20, 30), np.uint8)
    for m in masks[:4]:
        y, x = rng.integers(0, 18), rng.integers(0, 28)
        m[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = 1
    for mask, box in zip(masks, boxes_of_masks(masks)):
        ys, xs = np.nonzero(mask)
        wanted = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [0, 0, 0, 0]
        assert box.tolist() == wanted
    assert boxes_of_masks(masks[:0]).shape == (0, 4)


def test_perspective_maps_the_inner_corners_to_the_outer_ones():
    inward = np.array([[0.1, 0.0], [0.05, 0.2], [0.0, 0.1], [0.15, 0.05]])
    matrix = perspective_matrix((100, 200), inward)
    corners = np.array([[20, 0], [190, 20], [200, 90], [30, 95]], float)
    mapped = np.c_[corners, np.ones(4)] @ matrix.T
    wanted = [[0, 0], [200, 0], [200, 100], [0, 100]]
    assert np.allclose(mapped[:, :2] / mapped[:, 2:], wanted, atol=1e-9)


def test_rotation_by_zero_and_full_turn_leave_everything():
    clip = coded_clip()
    before = deepcopy(clip)
    warp(clip, 0, affine_matrix(clip.size, degrees=360.0))
    assert np.array_equal(clip.objects[0].masks, before.objects[0].masks)
    assert clip.valid[0].all()
    shifted = coded_clip()
    warp(shifted, 0, affine_matrix(shifted.size, shift=(7, -4)))
    assert np.array_equal(shifted.objects[0].masks[:, :-4, 7:], before.objects[0].masks[:, 4:, :-7])
    assert not shifted.valid[0][:, :7].any() and not shifted.valid[0][-4:].any()
    assert shifted.valid[0][:-4, 7:].all()


def test_three_rotations_as_propose_reduce():
    clip = coded_clip(0, (0, 0, 0))
    middle = clip.images[1].copy()
    rotation_clip(clip, degrees=30)
    assert np.array_equal(clip.images[1], middle) and clip.valid[1] is None
    assert not clip.valid[0].all() and not clip.valid[2].all()
    corner = clip.images[0][0, 0]  # outside: the mean colour
    assert np.abs(corner.astype(float) - middle.reshape(-1, 3).mean(0)).max() <= 1


@pytest.mark.parametrize("seed", range(8))
def test_a_pasted_copy_is_a_new_object_on_top(seed):
    clip = coded_clip(seed, (0, 1, 2))
    one = int(clip.objects[0].ids[0])
    clip.objects = [o.select(o.ids == one) for o in clip.objects]
    for f, objects in enumerate(clip.objects):
        clip.images[f] = np.repeat((objects.masks.sum(0) * one * GREY)[..., None], 3, 2)
        clip.images[f] = clip.images[f].astype(np.uint8)
    old = [o.masks.copy() for o in clip.objects]
    pasted = duplicate_instance(clip, np.random.default_rng(seed), prob=1.0)
    finish_boxes(clip, min_pixels=1, from_masks=False)
    check(clip, names={one + 1: one})
    if pasted:
        assert any(one + 1 in o.ids for o in clip.objects)
        for before, objects in zip(old, clip.objects):
            own = objects.select(objects.ids == one).masks
            assert not (own & ~before[: len(own)] & 1).any()
            assert (objects.identities[objects.ids == one + 1] == -1).all()


def test_pasting_leaves_other_clips_alone():
    clip = coded_clip(0)
    assert not duplicate_instance(clip, np.random.default_rng(0), prob=1.0)  # several objects
    clip.objects = [o.select(np.arange(1)) for o in clip.objects]
    assert not duplicate_instance(clip, np.random.default_rng(0), prob=0.0)


def test_balanced_crops_find_the_foreground():
    height, width = 200, 300
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, 150:180, 240:280] = 1
    found = {"any": 0, "balanced": 0}
    for style in found:
        for seed in range(100):
            one = np.ones(1, np.int64)
            objects = Objects(mask.copy(), one, one, one, boxes_of_masks(mask))
            clip = Clip([np.zeros((height, width, 3), np.uint8)], [objects])
            random_crop(clip, np.random.default_rng(seed), size=(80, 80), style=style, tries=10)
            assert clip.size == (80, 80)
            found[style] += bool(clip.objects[0].masks.any())
    assert found["balanced"] > 1.5 * found["any"]
    with pytest.raises(InputError, match="STYLE"):
        random_crop(coded_clip(), np.random.default_rng(0), size=(9, 9), style="odd")


def test_balanced_crops_may_ask_for_pixels_of_one_object():
    """Two objects of 60 pixels each side by side are enough foreground, but no object of 100."""
    masks = np.zeros((3, 200, 300), np.uint8)
    masks[0, 20:26, 20:30] = masks[1, 20:26, 30:40] = masks[2, 150:170, 250:270] = 1
    ids = np.arange(3)
    for seed in range(20):
        objects = Objects(masks.copy(), ids, ids, ids, boxes_of_masks(masks))
        clip = Clip([np.zeros((200, 300, 3), np.uint8)], [objects])
        rng = np.random.default_rng(seed)
        random_crop(clip, rng, size=(80, 80), style="balanced", tries=200, min_pixels=100)
        assert clip.objects[0].masks[2].sum() >= 100


def test_small_remains_are_dropped():
    clip = coded_clip()
    clip.objects[0].masks[0] = 0
    clip.objects[0].masks[0, :3, :3] = 1
    gone = int(clip.objects[0].ids[0])
    finish_boxes(clip, min_pixels=10, from_masks=True)
    assert gone not in clip.objects[0].ids and gone in clip.objects[1].ids


def test_colour_changes_pixels_alike_in_all_frames_and_no_mask():
    rng = np.random.default_rng(0)
    for image_format in ("BGR", "RGB"):
        clip = coded_clip(0, (1, 1))
        clip.images = [np.random.default_rng(3).integers(0, 256, (96, 160, 3), np.uint8)] * 2
        masks = [o.masks.copy() for o in clip.objects]
        jitter_colour(clip, rng, brightness=0.3, contrast=0.3, saturation=0.3, hue=20,
                      image_format=image_format)  # fmt: skip
        assert np.array_equal(clip.images[0], clip.images[1])
        jitter_colour(clip, rng, brightness=0.5, per_frame=True)
        assert not np.array_equal(clip.images[0], clip.images[1])
        shift_colour(clip, 0, rng, image_format=image_format)
        random_blur(clip, rng, motion_prob=1.0, gaussian_prob=1.0)
        assert all(np.array_equal(o.masks, m) for o, m in zip(clip.objects, masks))
        assert all(i.dtype == np.uint8 for i in clip.images)


def test_a_grey_shift_is_what_it_says():
    clip = coded_clip()
    clip.images = [np.full((96, 160, 3), 100, np.uint8)] * 2
    values = set()
    for seed in range(40):
        copy = deepcopy(clip)
        shift_colour(copy, 0, np.random.default_rng(seed), value=40, hue_saturation=0)
        assert np.ptp(copy.images[0]) <= 1 and np.array_equal(copy.images[1], clip.images[1])
        values.add(int(copy.images[0][0, 0, 0]))
    assert min(values) >= 60 and max(values) <= 140 and len(values) > 10


def mapper_options(**changes):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_the_mapper_packs_consistent_instances():
    video = load_videos("synthetic_train:videos=12:length=6")[2]
    mapper = ClipMapper(mapper_options(INPUT__AUGMENTATIONS__PAD_TO=(128, 192)))
    item = mapper(
        video, ClipItem(0, (0, 4)), np.random.default_rng(0), dataset="d", identity_offset=100
    )
    assert item["frame_indices"] == [0, 4] and item["dataset"] == "d"
    assert [tuple(i.shape) for i in item["image"]] == [(3, 128, 192)] * 2
    assert not item["valid"][0][96:].any() and item["valid"][0][:96, :160].all()
    for instances in item["instances"]:
        assert instances.image_size == (128, 192)
        boxes = instances.gt_masks.get_bounding_boxes().tensor
        assert (boxes == instances.gt_boxes.tensor).all()
        wanted = {o["id"]: (o["category_id"], 100 + o["identity"]) for o in video["objects"]}
        for i, c, k in zip(instances.gt_ids, instances.gt_classes, instances.gt_identity):
            assert wanted[int(i)] == (int(c), int(k))


def test_frames_can_be_stretched_to_one_size():
    video = load_videos("synthetic_train:videos=12:length=6")[2]
    for kind in ("bilinear", "area_bicubic"):
        cfg = mapper_options(
            INPUT__AUGMENTATIONS__RESIZE_TO=(120, 214), INPUT__AUGMENTATIONS__RESIZE_FILTER=kind
        )
        item = ClipMapper(cfg)(video, ClipItem(0, (1,)), np.random.default_rng(0))
        assert item["image"][0].shape == (3, 120, 214)
        assert item["instances"][0].image_size == (120, 214)
    with pytest.raises(InputError, match="RESIZE_FILTER"):
        ClipMapper(mapper_options(INPUT__AUGMENTATIONS__RESIZE_FILTER="odd"))


def test_stills_become_clips():
    videos = load_videos("synthetic_stills_train:videos=3")
    for kind in ("repeat", "rotation", "affine"):
        mapper = ClipMapper(mapper_options(INPUT__PSEUDO_CLIP__KIND=kind))
        item = mapper(videos[0], ClipItem(0, (0, 0, 0)), np.random.default_rng(1))
        assert item["pseudo"] and len(item["image"]) == 3
        same = bool((item["image"][0] == item["image"][2]).all())
        assert same == (kind == "repeat")
        assert ("valid" in item) == (kind != "repeat")
    with pytest.raises(InputError, match="KIND"):
        ClipMapper(mapper_options(INPUT__PSEUDO_CLIP__KIND="odd"))
