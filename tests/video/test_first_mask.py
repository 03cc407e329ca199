"""First masks from boxes and points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vis_projects.structures import InputError
from vis_projects.video.first_mask import Prompt, first_masks, mask_of, prompts_of


def scene():
    """Two textured discs on another texture; the image and their masks."""
    rng = np.random.default_rng(0)
    image = rng.integers(20, 90, (200, 300, 3)).astype(np.uint8)
    truth = []
    for centre, colour in (((90, 100), (0, 60, 220)), ((220, 90), (200, 160, 0))):
        disc = cv2.circle(np.zeros((200, 300), np.uint8), centre, 45, 1, -1) > 0
        noise = rng.integers(-25, 25, (200, 300, 3))
        image[disc] = np.clip(np.array(colour) + noise, 0, 255)[disc]
        truth.append(disc)
    return image, truth


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_boxes_become_masks_and_number_the_objects():
    image, truth = scene()
    labels = first_masks(image, prompts_of(["38,48,142,152", "168,38,272,142"], []))
    assert iou(labels == 1, truth[0]) > 0.95 and iou(labels == 2, truth[1]) > 0.95


def test_points_alone_and_points_that_correct():
    image, truth = scene()
    labels = first_masks(image, prompts_of([], ["90,100", "2:220,90"], ["2:150,20"]))
    assert iou(labels == 1, truth[0]) > 0.9 and iou(labels == 2, truth[1]) > 0.9
    both = Prompt(box=(38, 38, 272, 152))
    with_both = mask_of(image, both)
    both.outside.append((220, 90))
    assert with_both[90, 220] and not mask_of(image, both)[90, 220]


def test_a_mask_stays_in_its_box_and_is_never_empty():
    image, _ = scene()
    mask = mask_of(image, Prompt(box=(60, 70, 120, 130)))
    assert mask.any() and not mask[:70].any() and not mask[:, 120:].any()
    flat = np.full((120, 160, 3), 77, np.uint8)
    for box in ((20, 30, 90, 100), (0, 0, 160, 120), (-50, -9, 999, 999)):
        mask = mask_of(flat, Prompt(box=box))
        assert mask[60, 60] and mask.mean() > 0.1
    assert mask_of(flat, Prompt(box=(4, 4, 6, 6))).any()


def test_a_second_opinion_leaves_other_things_in_the_box_out():
    image, truth = scene()
    both = Prompt(box=(38, 38, 272, 152))
    seen = []

    def finder(window):
        """Find the left half of the window: the disc there, and some ground."""
        seen.append(window.shape)
        left = np.zeros(window.shape[:2], bool)
        left[:, : window.shape[1] // 2] = True
        return left

    mask = mask_of(image, both, finder=finder)
    assert iou(mask, truth[0]) > 0.9 and iou(mask_of(image, both), truth[0] | truth[1]) > 0.9
    assert len(seen) == 1 and seen[0][2] == 3
    nothing = mask_of(image, both, finder=lambda window: np.zeros(window.shape[:2], bool))
    assert np.array_equal(nothing, mask_of(image, both))


def test_the_same_twice():
    image, _ = scene()
    prompt = Prompt(box=(30, 40, 150, 160))
    assert np.array_equal(mask_of(image, prompt), mask_of(image, prompt))


@pytest.mark.parametrize(
    "boxes, points, message",
    [
        (["1,2,3"], [], "--box 1,2,3: write x0,y0,x1,y1"),
        (["50,50,40,90"], [], "right of and below"),
        (["400,10,450,60"], [], "box 400,10,450,60 lies outside the frame of 300x200"),
        ([], ["1:2"], "point 1:2: write x,y"),
        ([], ["0:5,5"], "point 0:5,5"),
        ([], ["310,5"], "point 310,5 lies outside"),
        ([], ["2:-5,5"], "point -5,5 lies outside"),
    ],
)
def test_bad_prompts_are_named(boxes, points, message):
    with pytest.raises(InputError, match=message):
        first_masks(scene()[0], prompts_of(boxes, points))


def test_background_alone_is_no_object():
    with pytest.raises(InputError, match="object 1 has neither a box nor a point on it"):
        first_masks(scene()[0], prompts_of([], [], ["5,5"]))
