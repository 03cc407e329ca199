"""Objects proposed by an unsupervised system: ``vis run --first-mask auto`` and the page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from vis_projects.annotate import following
from vis_projects.annotate.session import Session
from vis_projects.cli import main, prompt_options
from vis_projects.config import load_config
from vis_projects.structures import InputError
from vis_projects.video import VideoPredictor, proposals
from vis_projects.weights import config_of_checkpoint, make_card
from vis_projects.weights.shipping import save_shipped
from vis_projects.weights.zoo import ZooEntry

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["DATASETS.CLASS_AGNOSTIC", "True", "MODEL.SRNET.NUM_CLASSES", "0",
         "MODEL.SRNET.TEST.MIN_SCORE", "0.5", "MODEL.DEVICE", "cpu",
         "MODEL.SRNET.TEST.SAME_CLASS", "False", "INPUT.MIN_SIZE_TEST", "0"]  # fmt: skip
TINY_TRUNK = """
_BASE_: {base}
MODEL:
  TIMM: {{NAME: resnet10t, PRETRAINED: False}}
  ALLOW_MISSING_WEIGHTS: True
INPUT:
  MIN_SIZE_TEST: 0
"""


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    """Weights of an SRNet that takes discs all over the frame for objects."""
    cfg = load_config("configs/srnet/quickstart_synthetic.yaml", SMALL)
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.heads.objectness.out.bias, 2.0)
    entry = ZooEntry("finder", "srnet", "a network for tests")
    folder = tmp_path_factory.mktemp("finder")
    return save_shipped(folder, entry, model.state_dict(), make_card(cfg))


@pytest.fixture
def follower(tmp_path, monkeypatch):
    """The default system that follows, on a tiny trunk without weights; its config."""
    config = tmp_path / "follower.yaml"
    config.write_text(TINY_TRUNK.format(base=ROOT / "configs/feature_match/lite0.yaml"))
    monkeypatch.setattr(prompt_options, "DEFAULT_VOS", str(config))
    return str(config)


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for t in range(3):
        cv2.imwrite(str(folder / f"{t:05d}.png"), rng.integers(0, 255, (96, 128, 3), np.uint8))
    return folder


def run(frames, out, *options):
    return main(["run", "--input", str(frames), "--output", str(out), *options])


def test_what_named_weights_find_is_followed(finder, follower, frames, tmp_path):
    out = tmp_path / "out"
    assert run(frames, out, "--first-mask", "auto", "--weights", str(finder)) == 0
    first = np.asarray(Image.open(out / "masks/00000.png"))
    image = cv2.imread(str(frames / "00000.png"))
    expected = proposals.propose(VideoPredictor(config_of_checkpoint(str(finder))), image)
    assert np.array_equal(first, expected) and set(np.unique(first)) >= {1, 2}


def test_the_shipped_finder_serves_beside_a_named_follower(
    finder, follower, frames, tmp_path, monkeypatch
):
    monkeypatch.setattr(proposals, "UVOS_WEIGHTS", str(finder))
    monkeypatch.setattr(proposals, "zoo_entries", lambda: {str(finder): None})
    out = tmp_path / "out"
    assert run(frames, out, "--first-mask", "auto", "--config-file", follower) == 0
    assert np.asarray(Image.open(out / "masks/00000.png")).max() >= 2


def test_without_any_finder_one_line_says_what_to_do(
    follower, frames, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(proposals, "zoo_entries", dict)
    out = tmp_path / "out"
    assert run(frames, out, "--first-mask", "auto") == 2
    error = capsys.readouterr().err.strip()
    assert "lite0_stills.yaml" in error and "--box" in error and "\n" not in error
    assert not out.exists()


def test_nothing_found_is_one_line(finder, follower, frames, tmp_path, capsys):
    options = ["--first-mask", "auto", "--weights", str(finder), "TEST.FOREGROUND_THRESH", "0.99"]
    assert run(frames, tmp_path / "out", *options) == 2
    assert "no object was found in the first frame: give --box" in capsys.readouterr().err


def test_the_page_proposes_beside_a_system_that_follows(
    finder, follower, frames, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        following, "shipped_finder", lambda device: config_of_checkpoint(str(finder))
    )
    events = []
    session = Session(
        frames,
        project=tmp_path / "project",
        predictor=lambda: VideoPredictor(load_config(follower, ["MODEL.DEVICE", "cpu"])),
        tell=events.append,
    )
    session.follower.propose()
    session.follower.wait()
    found = session.project.objects
    session.close()
    assert events[-1] == {"kind": "done", "frames": 3, "stopped": False}
    assert len(found) >= 2 and all(thing.proposal for thing in found.values())


def test_proposals_become_ids_by_score():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 2:6], masks[2, 6:] = True, True, True
    found = Instances((8, 8), pred_masks=masks, scores=torch.tensor([0.6, 0.9, 0.2]))
    labels = proposals.proposed_masks(found, above=0.5)
    assert labels[0, 0] == 2 and labels[3, 0] == 1 and labels[7, 0] == 0
    with pytest.raises(InputError, match="no object was found.*--box"):
        proposals.proposed_masks(found, above=0.95)
