"""``vis run`` from boxes and points: a folder of frames in, masks out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects.cli import main

TINY = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.STANDARDISE",
        "", "INPUT.MIN_SIZE_TEST", "0", "MODEL.ALLOW_MISSING_WEIGHTS", "True"]  # fmt: skip


@pytest.fixture
def frames(tmp_path):
    """Three frames of a red disc on dark noise."""
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for t in range(3):
        image = rng.integers(20, 70, (96, 128, 3)).astype(np.uint8)
        cv2.circle(image, (50 + 3 * t, 48), 20, (20, 40, 230), -1)
        cv2.imwrite(str(folder / f"{t:05d}.png"), image)
    return folder


@pytest.mark.parametrize(
    "prompt", [["--box", "27,25,73,71"], ["--point", "50,48", "--background-point", "100,20"]]
)
def test_an_object_is_followed_without_a_config(frames, tmp_path, prompt):
    out = tmp_path / "out"
    assert main(["run", "--input", str(frames), *prompt, "--output", str(out), *TINY]) == 0
    first = np.asarray(Image.open(out / "masks/00000.png"))
    disc = cv2.circle(np.zeros((96, 128), np.uint8), (50, 48), 20, 1, -1) > 0
    assert ((first == 1) & disc).sum() / ((first == 1) | disc).sum() > 0.9
    assert (np.asarray(Image.open(out / "masks/00002.png")) == 1).any()


@pytest.mark.parametrize(
    "prompt, message",
    [
        (["--box", "1,2"], "write x0,y0,x1,y1"),
        (["--box", "1,2,30,40", "--first-mask", "m.png"], "give one of them"),
        ([], "--box"),
    ],
)
def test_bad_prompts_end_in_one_line(frames, tmp_path, capsys, prompt, message):
    out = tmp_path / "out"
    assert main(["run", "--input", str(frames), *prompt, "--output", str(out), *TINY]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not out.exists()
