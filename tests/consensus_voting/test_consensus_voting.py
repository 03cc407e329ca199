"""ConsensusVoting: votes against their definition, what a video agrees on, loading of its parts."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from vis_metrics.region_boundary import mask_measures
from vis_projects.config import load_config
from vis_projects.consensus_voting.voting import (
    Votes,
    masks_by_votes,
    nearest_references,
    reference_frames,
    same_objects,
    shared_votes,
    tally,
    votes_of,
)
from vis_projects.engine.checkpointer import save_weights
from vis_projects.structures import (
    ArraySource,
    InputError,
    Track,
    VideoResult,
    decode_mask,
    encode_masks,
)
from vis_projects.weights import load_weights

CONFIG = "configs/consensus_voting/lite0.yaml"
TINY = [
    *("MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.PRETRAINED", "False"),
    *("MODEL.TIMM.STANDARDISE", "", "MODEL.FPN.OUT_CHANNELS", "32"),
    *("MODEL.SRNET.DECODER_CHANNELS", "(32, 32, 32, 32)", "MODEL.SRNET.HEAD_CHANNELS", "16"),
    *("MODEL.WEIGHTS", "", "MODEL.ALLOW_MISSING_WEIGHTS", "True", "INPUT.MIN_SIZE_TEST", "0"),
    *("MODEL.CONSENSUS_VOTING.MIN_SIZE", "0", "MODEL.CONSENSUS_VOTING.OBJECTNESS", "0.0"),
]


def tiny(*opts):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*TINY, *(str(o) for o in opts)])).eval()


# Who votes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 8, 9, 10, 50, 100, 101, 140, 1000])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_references_are_spread_over_short_videos_and_follow_long_ones(length, count):
    frames = reference_frames(length, count, 100)
    assert frames == sorted(set(frames)) and 0 <= frames[0] <= frames[-1] < length
    gaps = np.diff(frames)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    if count > 1:
        assert frames[0] == 0 and frames[-1] == length - 1
    if length <= 100:
        assert len(frames) == min(count, length)
    elif count > 1:
        assert gaps.max() <= np.ceil(99 / (count - 1))
    for t in range(0, length, 7):
        near = nearest_references(t, frames, count)
        assert near == sorted(near) and len(near) == min(count, len(frames))
        far = set(frames) - set(near)
        assert all(abs(f - t) >= max(abs(n - t) for n in near) for f in far)


# Votes --------------------------------------------------------------------------------------------


def slow_tally(features, voters, ids, top_k, sharpness):
    """One cell after the other."""
    _, h, w = features.shape
    out = torch.zeros(1 + len(ids), h, w, dtype=features.dtype)
    for y in range(h):
        for x in range(w):
            for voter in voters:
                similar = (voter.features * features[:, y, x, None, None]).sum(0).flatten()
                best = similar.argsort(descending=True)[:top_k]
                share = torch.softmax(sharpness * similar[best], 0)
                said = voter.cells.flatten(1)[:, best] @ share
                for row, value in zip([0, *(1 + ids.index(i) for i in voter.ids)], said):
                    out[row, y, x] += value / len(voters)
    return out


def test_tally_is_its_definition():
    torch.manual_seed(0)
    kind = {"dtype": torch.float64}
    voters = [Votes(torch.randn(3, 4, 5, **kind), ids, torch.rand(1 + len(ids), 4, 5, **kind))
              for ids in ([7], [], [2, 9])]  # fmt: skip
    query = torch.randn(3, 4, 5, **kind)
    got = tally(query, voters, [2, 7, 9], top_k=3, sharpness=2.0)
    assert torch.allclose(got, slow_tally(query, voters, [2, 7, 9], 3, 2.0), atol=1e-12)


def test_what_a_reference_says_are_scores_and_evidence():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :4], mask[1, 4:, :2] = True, True
    first, second = encode_masks(mask)
    tracks = [Track(3, {0: 0.5}, [first]), Track(4, {0: 1.0}, [None]), Track(8, {0: 0.8}, [second])]
    votes = votes_of(torch.zeros(1, 2, 2), torch.full((5, 7), 0.25), tracks, 0, (8, 8))
    assert votes.ids == [3, 8]
    want = torch.tensor([[[0.25, 0.25]] * 2, [[0.5, 0.5], [0, 0]], [[0, 0], [0.4, 0]]])
    assert torch.allclose(votes.cells, want, atol=1e-6)


def test_masks_are_disjoint_and_belong_to_the_track_with_most_votes():
    votes = torch.zeros(3, 2, 2)
    votes[1] = torch.tensor([[0.5, 0.2], [0.0, 0.6]])
    votes[2] = torch.tensor([[0.1, 0.4], [0.0, 0.0]])
    votes[0] = torch.tensor([[0.0, 0.0], [9.0, -0.5]])  # evidence alone makes no object
    masks = masks_by_votes(votes, (2, 2), 0.55)
    assert masks.tolist() == [[[True, False], [False, False]], [[False, True], [False, False]]]
    assert masks_by_votes(votes[:1], (2, 2), 0.5).shape == (0, 2, 2)


def test_votes_that_tracks_share():
    torch.manual_seed(0)
    votes = torch.rand(4, 3, 5, dtype=torch.float64)
    want = torch.tensor([[torch.minimum(a, b).sum() for b in votes[1:]] for a in votes[1:]])
    assert torch.allclose(shared_votes(votes), want.double(), atol=1e-12)
    assert shared_votes(votes[:1]).shape == (0, 0)


def test_pieces_of_an_object_are_one():
    """2 and 0 lie in 1; 3 lies beside it; 4 has no votes and joins nobody."""
    shared = np.array([[4, 3, 0, 0, 0], [3, 9, 2, 1, 0], [0, 2, 3, 1, 0], [0, 1, 1, 5, 0], [0] * 5])
    assert same_objects(shared) == [[1, 0, 2], [3], [4]]
    assert same_objects(shared, 0.7) == [[1, 0], [3], [2], [4]]
    assert same_objects(np.zeros((0, 0))) == []


# Whole videos -------------------------------------------------------------------------------------


class Said(nn.Module):
    """Stands for a detector: says what it is told."""

    def __init__(self, result: VideoResult) -> None:
        super().__init__()
        self.result = result

    def run_video(self, source, *, info=None):
        return self.result


def squares(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frames uint8 (T, H, W, 3) of a red square that moves, and its masks (T, H, W)."""
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 110, (length, 64, 96, 3)).astype(np.uint8)
    masks = np.zeros((length, 64, 96), bool)
    for t in range(length):
        masks[t, 16:48, 16 + 4 * t : 48 + 4 * t] = True
    frames[masks] = (20, 20, 230)
    return frames, masks


def test_a_video_fills_in_what_it_shows_and_drops_what_one_frame_claims():
    frames, masks = squares(7)
    rles = encode_masks(torch.from_numpy(masks))
    ghost = torch.zeros(1, 64, 96, dtype=torch.bool)
    ghost[:, :12, :12] = True
    tracks = [  # the square is lost for two frames and comes back under another id
        Track(4, {0: 0.8}, [rle if t < 2 else None for t, rle in enumerate(rles)]),
        Track(5, {0: 0.9}, [rle if t > 3 else None for t, rle in enumerate(rles)]),
        Track(6, {0: 0.95}, [*encode_masks(ghost), *[None] * 6]),
    ]
    model = tiny("MODEL.CONSENSUS_VOTING.REFERENCES", 7)
    model.detector = Said(VideoResult(tracks, (64, 96), 7))
    result = model.run_video(ArraySource(frames))
    assert [t.id for t in result.tracks] == [5] and result.tracks[0].score == 0.9
    for t in (2, 3, 6):
        found = decode_mask(result.tracks[0].masks[t]).astype(np.uint8)
        assert mask_measures(masks[t].astype(np.uint8), found)[0] > 0.5  # cells of 8 pixels
    model.detector = Said(VideoResult([], (64, 96), 7))
    assert model.run_video(ArraySource(frames)).tracks == []


def test_one_frame_of_one_cell_has_an_opinion():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :, 4:] = True
    opts = ("MODEL.CONSENSUS_VOTING.OBJECTNESS", 0.2, "MODEL.CONSENSUS_VOTING.OBJECTNESS_SIZE", 0)
    model = tiny(*opts)
    model.detector = Said(VideoResult([Track(1, {0: 1.0}, encode_masks(mask))], (32, 32), 1))
    assert len(model.run_video(ArraySource(np.full((1, 32, 32, 3), 90, np.uint8))).tracks) == 1


def test_crumbs_are_no_objects():
    frames, masks = squares(3)
    masks = torch.from_numpy(np.stack([masks, np.zeros_like(masks)]))
    masks[1, :, 40:56, 72:88] = True  # a quarter of the other's pixels
    frames[masks[1].numpy()] = (230, 200, 0)
    tracks = [Track(i, {0: 0.9}, encode_masks(m)) for i, m in zip((1, 2), masks)]
    for share, kept in ((0.0, 2), (0.1, 2), (0.5, 1), (1.0, 1)):
        model = tiny("MODEL.CONSENSUS_VOTING.MIN_SHARE", share)
        model.detector = Said(VideoResult(tracks, (64, 96), 3))
        assert len(model.run_video(ArraySource(frames)).tracks) == kept


class Counted(ArraySource):
    """Counts the frames that are alive at once."""

    most = 0

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        alive = self.__dict__.setdefault("alive", weakref.WeakSet())
        alive.add(frame)
        self.most = max(self.most, len(alive))
        return frame


def test_long_videos_keep_few_frames_and_features(monkeypatch):
    """No more features than those of the frames that vote are held, and each is made once."""
    frames, masks = squares(16)
    model = tiny("MODEL.CONSENSUS_VOTING.REFERENCES", 3, "MODEL.CONSENSUS_VOTING.SPAN", 5)
    rles = encode_masks(torch.from_numpy(masks))
    model.detector = Said(VideoResult([Track(1, {0: 1.0}, rles)], (64, 96), 16))
    made, features = [], model._features
    monkeypatch.setattr(model, "_features", lambda f: made.append(f.index) or features(f))
    source = Counted(frames)
    result = model.run_video(source)
    assert result.tracks[0].visible_frames == 16
    assert sorted(made[-16:]) == list(range(16))  # before: the references among themselves
    assert 0 < source.most <= 3


# Loading ------------------------------------------------------------------------------------------


def test_the_detectors_own_file_is_all_it_takes(tmp_path):
    """Below its prefix, and a trunk inside the detector that the file lacks stays missing."""
    model = tiny()
    state = {k: (v + 1).to(v) for k, v in model.detector.state_dict().items()}
    save_weights(state, tmp_path / "whole.pth", {"system": "SRNet"})
    verdict = load_weights(model, str(tmp_path / "whole.pth"))
    assert verdict.loaded > 100 and not [n for n in verdict.absent if n.startswith("detector.")]
    assert all(torch.equal(v, state[k]) for k, v in model.detector.state_dict().items())
    heads = {k: v for k, v in state.items() if not k.startswith("backbone.bottom_up")}
    save_weights(heads, tmp_path / "heads.pth", {"system": "SRNet"})
    absent = load_weights(tiny(), str(tmp_path / "heads.pth")).absent
    assert {n.rpartition(".net.")[0] for n in absent if n.startswith("detector.")} == {
        "detector.backbone.bottom_up"
    }
    save_weights(state, tmp_path / "other.pth", {"system": "CFBI"})
    with pytest.raises(InputError, match="it is a checkpoint of CFBI"):
        load_weights(tiny(), str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    "opts, match",
    [
        (("MODEL.SRNET.NUM_CLASSES", "3"), "finds objects of any class"),
        (("MODEL.CONSENSUS_VOTING.DETECTOR", "CopyFirst"), "finds objects of any class"),
        (("MODEL.CONSENSUS_VOTING.DETECTOR", "SRNit"), "SRNet"),
        (("MODEL.CONSENSUS_VOTING.DETECTOR", "ConsensusVoting"), "another system"),
        (("MODEL.CONSENSUS_VOTING.REFERENCES", "0"), "at least 1"),
        (
            (
                "MODEL.TIMM.NAME",
                "mobilenetv3_small_050",
                "MODEL.CONSENSUS_VOTING.OBJECTNESS",
                "1.0",
            ),
            "no map to look at",
        ),
    ],
)
def test_what_cannot_be_is_refused(opts, match):
    with pytest.raises(InputError, match=match):
        tiny(*opts)
