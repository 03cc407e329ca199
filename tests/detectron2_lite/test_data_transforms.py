"""Transforms and augmentations: recorded results, and identities."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fill import frames
from PIL import Image


@pytest.fixture
def small(golden):
    return json.loads(golden("detectron2/small.json").read_text())


@pytest.fixture
def arrays(golden):
    with np.load(golden("detectron2/small.npz")) as file:
        return dict(file)


def test_resize_shortest_edge_sizes(small):
    for h, w, short, longest, new_h, new_w in small["resize_shortest_edge"]:
        found = T.ResizeShortestEdge.get_output_shape(h, w, short, longest)
        assert found == (new_h, new_w)
        drawn = T.ResizeShortestEdge([short], longest, "choice").get_transform(np.zeros((h, w)))
        assert (drawn.new_h, drawn.new_w) == (new_h, new_w)


def test_random_augmentations_draw_the_recorded_numbers(small):
    image = frames(small["base_seed"] + 40, 1, 60, 90)[0]
    augs = T.AugmentationList(
        [
            T.ResizeShortestEdge([40, 48, 56], 100, "choice"),
            T.RandomFlip(),
            T.RandomCrop("relative_range", (0.6, 0.6)),
        ]
    )
    np.random.seed(small["augment_numpy_seed"])
    for shape, total in zip(small["augment_shapes"], small["augment_image_sums"]):
        aug_input = T.AugInput(image)
        augs(aug_input)
        assert list(aug_input.image.shape) == shape
        assert float(aug_input.image.astype(np.float64).sum()) == total


def test_float_images_resize_without_antialiasing():
    image = np.random.RandomState(0).rand(8, 12, 2).astype(np.float32)
    result = T.ResizeTransform(8, 12, 4, 6).apply_image(image)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], (4, 6), mode="bilinear"
    )[0].permute(1, 2, 0)
    np.testing.assert_array_equal(result, expected.numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, bool])
def test_segmentation_keeps_its_labels(dtype):
    labels = (np.arange(48).reshape(6, 8) % 2).astype(dtype)
    if dtype in (np.int64, bool):
        labels = labels.astype(np.uint8)  # what the mapper hands over
    out = T.ResizeTransform(6, 8, 9, 16).apply_segmentation(labels)
    assert out.shape == (9, 16) and set(np.unique(out)) <= {0, 1}


def test_resize_keeps_a_single_channel_and_inverts_coordinates():
    resize = T.ResizeTransform(10, 20, 5, 8)
    assert resize.apply_image(np.zeros((10, 20, 1), np.uint8)).shape == (5, 8, 1)
    assert resize.apply_image(np.zeros((10, 20, 3), np.uint8)[:, ::-1]).shape == (5, 8, 3)
    points = np.array([[3.0, 4.0], [20.0, 10.0]])
    there = resize.apply_coords(points.copy())
    np.testing.assert_allclose(resize.inverse().apply_coords(there), points)


def test_rotation_by_a_right_angle_is_exact():
    image = np.random.RandomState(0).randint(0, 255, (6, 9, 3)).astype(np.uint8)
    turn = T.RotationTransform(6, 9, 90)
    np.testing.assert_array_equal(turn.apply_image(image), np.rot90(image))
    # (x, y) -> (y, w - x)
    np.testing.assert_allclose(turn.apply_coords(np.array([[2.0, 1.0]])), [[1.0, 7.0]], atol=1e-9)
    back = turn.inverse()
    np.testing.assert_array_equal(back.apply_image(turn.apply_image(image)), image)
    still = T.RotationTransform(6, 9, 30, expand=False)
    assert still.apply_image(image).shape == image.shape
    with pytest.raises(NotImplementedError):
        still.inverse()


def test_extent_of_the_whole_image_is_the_identity_and_moves_points():
    image = np.random.RandomState(0).randint(0, 255, (6, 8, 3)).astype(np.uint8)
    whole = T.ExtentTransform((0, 0, 8, 6), (6, 8))
    np.testing.assert_array_equal(whole.apply_image(image), image)
    half = T.ExtentTransform((4, 0, 8, 6), (6, 8))
    np.testing.assert_allclose(half.apply_coords(np.array([[6.0, 3.0]])), [[4.0, 3.0]])


def test_colour_transforms_leave_geometry_alone():
    image = np.full((2, 2, 3), 100, np.uint8)
    points, mask = np.array([[1.0, 2.0]]), np.ones((2, 2), np.uint8)
    for transform in (
        T.ColorTransform(lambda x: x // 2),
        T.PILColorTransform(lambda p: p.point(lambda v: v // 2)),
    ):
        assert (transform.apply_image(image) == 50).all()
        assert transform.apply_coords(points) is points
        assert transform.apply_segmentation(mask) is mask


@pytest.mark.lite
def test_augmentations_read_what_their_signature_names():
    class Recorder(T.Augmentation):
        def get_transform(self, image, sem_seg):
            assert sem_seg.shape == image.shape[:2]
            return T.HFlipTransform(image.shape[1])

    aug_input = T.AugInput(
        np.zeros((4, 6, 3), np.uint8), boxes=np.array([[0, 0, 2, 2.0]]), sem_seg=np.eye(4, 6)
    )
    transform = Recorder()(aug_input)
    assert isinstance(transform, T.HFlipTransform)
    np.testing.assert_array_equal(aug_input.boxes, [[4, 0, 6, 2]])
    np.testing.assert_array_equal(aug_input.sem_seg, np.eye(4, 6)[:, ::-1])

    class Greedy(T.Augmentation):
        def get_transform(self, depth):
            return T.NoOpTransform()

    with pytest.raises(AttributeError, match="depth"):
        Greedy()(aug_input)
    with pytest.raises(AssertionError, match="uint8"):
        T.AugInput(np.zeros((4, 6), np.int64))


@pytest.mark.parametrize(
    "augmentation",
    [
        T.RandomApply(T.HFlipTransform(90), 0.5),
        T.RandomFlip(horizontal=False, vertical=True),
        T.Resize((30, 44)),
        T.ResizeShortestEdge((20, 30), 200),
        T.ResizeScale(0.5, 1.5, 70, 80),
        T.RandomCrop("relative", (0.5, 0.5)),
        T.RandomCrop("absolute", (70, 30)),
        T.RandomCrop("absolute_range", (20, 90)),
        T.FixedSizeCrop((50, 120)),
        T.RandomRotation([-20, 20]),
        T.RandomRotation([0, 90], sample_style="choice", center=[[0.5, 0.5]], expand=False),
        T.RandomContrast(0.5, 1.5),
        T.RandomBrightness(0.5, 1.5),
        T.RandomSaturation(0.5, 1.5),
        T.RandomLighting(0.7),
        T.RandomExtent((0.8, 1.2), (0.2, 0.2)),
        T.MinIoURandomCrop(),
    ],
    ids=lambda a: type(a).__name__,
)
def test_every_augmentation_is_a_function_of_numpys_state(augmentation):
    image = frames(7, 1, 60, 90)[0]

    def draw():
        np.random.seed(3)
        out = []
        for _ in range(5):
            aug_input = T.AugInput(
                image.copy(), boxes=np.array([[20.0, 10, 60, 50]]), sem_seg=image[..., 0].copy()
            )
            augmentation(aug_input)
            assert aug_input.image.shape[:2] == aug_input.sem_seg.shape
            out.append(aug_input)
        return out

    for a, b in zip(draw(), draw()):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert type(augmentation).__name__ in repr(augmentation)


@pytest.mark.lite
def test_crop_sizes():
    np.random.seed(0)
    assert T.RandomCrop("relative", (0.5, 0.25)).get_crop_size((60, 90)) == (30, 23)
    assert T.RandomCrop("absolute", (70, 30)).get_crop_size((60, 90)) == (60, 30)
    padded = T.FixedSizeCrop((70, 80)).get_transform(np.zeros((60, 90, 3), np.uint8))
    out = padded.apply_image(np.zeros((60, 90, 3), np.uint8))
    assert out.shape == (70, 80, 3) and (out[60:] == 128).all() and (out[:60] == 0).all()
    with pytest.raises(AssertionError, match="crop_type"):
        T.RandomCrop("sideways", (1, 1))


def test_recorded_resizing(small, arrays):
    image = frames(small["base_seed"] + 40, 1, 60, 90)[0]
    resize = T.ResizeTransform(60, 90, 45, 70)
    difference = resize.apply_image(image).astype(int) - arrays["resize_uint8"]
    assert np.abs(difference).max() <= 1
    floats = resize.apply_image(image.astype(np.float32))[:, :, 0]
    np.testing.assert_allclose(floats, arrays["resize_float_first_channel"], rtol=1e-5, atol=1e-5)
    labels = resize.apply_segmentation(image[:, :, 0] // 64)
    np.testing.assert_array_equal(labels, arrays["resize_nearest_mask"])


def annotation(segmentation):
    return {
        "bbox": [10.5, 8.25, 30, 20],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 3,
        "segmentation": segmentation,
        "iscrowd": 0,
    }


RESIZE_AND_FLIP = T.TransformList([T.ResizeTransform(60, 90, 45, 70), T.HFlipTransform(70)])


def test_recorded_polygon_annotation(small, arrays):
    angles = np.arange(20) * 2 * np.pi / 20
    polygon = np.stack([25.5 + 15 * np.cos(angles), 18.25 + 10 * np.sin(angles)], axis=1)
    polygon = polygon.round(3).reshape(-1).tolist()  # as recorded
    out = utils.transform_instance_annotations(annotation([polygon]), RESIZE_AND_FLIP, (45, 70))
    assert out["bbox_mode"] == small["anno_bbox_mode"]
    np.testing.assert_allclose(out["bbox"], arrays["anno_bbox"], rtol=1e-5)
    np.testing.assert_allclose(out["segmentation"][0], arrays["anno_poly"], rtol=1e-5)
    instances = utils.annotations_to_instances([out], (45, 70))
    assert sorted(instances.get_fields()) == small["anno_instances_fields"]
    np.testing.assert_allclose(instances.gt_boxes.tensor, arrays["anno_gt_boxes"], rtol=1e-5)
    bits = utils.annotations_to_instances([out], (45, 70), mask_format="bitmask").gt_masks.tensor
    np.testing.assert_array_equal(
        np.packbits(bits.numpy().reshape(1, -1), axis=1), arrays["anno_gt_bitmask_packed"]
    )


def test_recorded_rle_annotation(small, arrays):
    mask = np.zeros((60, 90), np.uint8)
    mask[8:28, 11:40] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    out = utils.transform_instance_annotations(annotation(rle), RESIZE_AND_FLIP, (45, 70))
    instances = utils.annotations_to_instances([out], (45, 70), mask_format="bitmask")
    bits = instances.gt_masks.tensor
    assert int(bits.sum()) == small["anno_rle_mask_area"]
    np.testing.assert_array_equal(
        np.packbits(bits.numpy().reshape(1, -1), axis=1), arrays["anno_rle_mask_packed"]
    )
    with pytest.raises(ValueError):
        utils.annotations_to_instances([out], (45, 70), mask_format="polygon")


def test_reading_images(tmp_path):
    rgb = np.random.RandomState(0).randint(0, 255, (4, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    turned = np.rot90(rgb, 3)
    np.testing.assert_array_equal(utils.read_image(str(tmp_path / "a.png"), "RGB"), turned)
    bgr = utils.read_image(str(tmp_path / "a.png"), "BGR")
    np.testing.assert_array_equal(bgr, turned[:, :, ::-1])
    np.testing.assert_array_equal(utils.convert_image_to_rgb(bgr, "BGR"), turned)
    assert utils.read_image(str(tmp_path / "a.png"), "L").shape == (6, 4, 1)
    yuv = utils.read_image(str(tmp_path / "a.png"), "YUV-BT.601")
    back = utils.convert_image_to_rgb(torch.from_numpy(yuv), "YUV-BT.601")
    assert np.abs(back.astype(int) - turned).max() <= 2
    assert utils.convert_image_to_rgb(turned[:, :, :1], "L").shape == (6, 4, 3)

    known = {"file_name": "a.png"}
    utils.check_image_size(known, turned)
    assert known["height"], known["width"] == (6, 4)
    with pytest.raises(utils.SizeMismatchError):
        utils.check_image_size({"file_name": "a.png", "height": 4, "width": 6}, turned)


def test_crop_around_an_instance_contains_its_centre():
    np.random.seed(0)
    instance = {"bbox": [50, 20, 20, 10], "bbox_mode": 1}
    for _ in range(30):
        crop = utils.gen_crop_transform_with_instance((20, 30), (60, 90), instance)
        assert 0 <= crop.x0 <= 60 and 0 <= crop.y0 <= 40
        assert crop.x0 <= 60 <= crop.x0 + 30 and crop.y0 <= 25 <= crop.y0 + 20


def test_empty_annotations_keep_the_fields():
    empty = utils.annotations_to_instances([], (4, 5))
    assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)
    assert empty.gt_classes.dtype == torch.int64
    kept, mask = utils.filter_empty_instances(empty, return_mask=True)
    assert len(kept) == 0 and mask.shape == (0,)
