"""MSN over whole videos: switches, caches, propagators, detectors, degenerate videos."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from vis_projects.config import load_config
from vis_projects.msn.association import mask_iou
from vis_projects.msn.chooser import MaskChooser, oracle_choice
from vis_projects.msn.detections import Reclassifier, clean_up, grown_boxes, reclassify
from vis_projects.structures import (
    ArraySource,
    Frame,
    InputError,
    IterableSource,
    VideoInfo,
    decode_mask,
)

CONFIG = "configs/msn/quickstart_synthetic.yaml"
TINY = (
    *("MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16", "MODEL.CFBI.HEAD_WIDTH", "32"),
    *("MODEL.DEVICE", "cpu", "MODEL.MSN.SCORE_THRESH", "0.0", "TEST.DETECTIONS_PER_IMAGE", "4"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.FPN.OUT_CHANNELS", "16"),
)


def _tiny(*opts: str):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*TINY, *opts])).eval()


def _frames(track) -> list[int]:
    return [t for t, mask in enumerate(track.masks) if mask is not None]


def _same(a, b) -> bool:
    return [(t.id, t.category_scores, t.masks) for t in a.tracks] == [
        (t.id, t.category_scores, t.masks) for t in b.tracks
    ]


def test_late_detections_reach_the_whole_video(pipeline, scene, colour_detector):
    """An object found only in frame 3 of 5 is carried to both ends."""
    detector = colour_detector({(t, 1) for t in (0, 1, 2, 4)})
    source = scene(5, {1: lambda t: 10})
    (track,) = pipeline(detector).run_video(source).tracks
    assert _frames(track) == [0, 1, 2, 3, 4]
    assert track.category_scores == {1: pytest.approx(0.9)}
    (forward,) = pipeline(detector, directions="forward").run_video(source).tracks
    assert _frames(forward) == [3, 4]
    (backward,) = pipeline(detector, directions="backward").run_video(source).tracks
    assert _frames(backward) == [0, 1, 2, 3]


def test_detector_runs_once_per_frame(pipeline, scene, colour_detector):
    detector = colour_detector()
    pipeline(detector, feature_cache_mb=0).run_video(scene(4, {1: lambda t: 10}))
    assert detector.calls == [0, 1, 2, 3]


@pytest.mark.parametrize("select", ["propagation", "segmentation", "oracle", "msn"])
def test_selection_decides_what_is_kept(pipeline, scene, select):
    """The object moves, CopyFirst does not: only the segmented mask follows."""
    source = scene(3, {1: lambda t: 10 + 3 * t})
    model = pipeline(select=select, directions="forward")
    truth = [torch.from_numpy(source.frames[t][:, :, 0] == 15) for t in range(3)]
    model.ground_truth = lambda video, t: truth[t][None]
    result = model.run_video(source)
    ious = [
        mask_iou(torch.from_numpy(decode_mask(track.masks[2]))[None], truth[2][None]).item()
        for track in result.tracks
    ]
    if select in ("segmentation", "oracle"):
        assert ious == [1.0]
    elif select == "propagation":
        assert ious[0] < 0.3


def test_margin_keeps_the_propagated_mask(pipeline, scene):
    source = scene(3, {1: lambda t: 10 + 3 * t})
    always = pipeline(switch_margin=-0.6, directions="forward").run_video(source)
    assert _same(always, pipeline(select="segmentation", directions="forward").run_video(source))
    never = pipeline(switch_margin=0.6, directions="forward").run_video(source)
    assert _same(never, pipeline(select="propagation", directions="forward").run_video(source))


def test_directions_that_disagree(pipeline, scene, colour_detector):
    """Forward starts with another class and a lower score than backward."""
    detector = colour_detector()
    plain = detector.forward

    def forward(items):
        out = plain(items)
        found = out[0]["instances"]
        if detector.calls[-1] == 0:
            found.pred_classes = found.pred_classes + 5
            found.scores = found.scores - 0.2
        return out

    detector.forward = forward
    detector.blind = {(t, 1) for t in (1, 2)}
    source = scene(4, {1: lambda t: 10})
    (track,) = pipeline(detector).run_video(source).tracks
    # Both runs associate both detections: class 1 sums to 0.9, class 6 to 0.7.
    assert track.category_scores == {1: pytest.approx(0.45)}
    assert _frames(track) == [0, 1, 2, 3]


def test_an_object_that_leaves_and_comes_back_is_one_track_or_two(pipeline, scene):
    there = {0: 10, 1: 10, 4: 30, 5: 30}
    source = scene(6, {1: there.get})
    result = pipeline(select="segmentation", rules={"associate_iou": 0.1}).run_video(source)
    covered = set().union(*(_frames(t) for t in result.tracks))
    assert {0, 1, 4, 5} <= covered
    for t in (0, 5):
        truth = torch.from_numpy(source.frames[t][:, :, 0] == 15)
        dense = [decode_mask(k.masks[t]) for k in result.tracks if k.masks[t] is not None]
        assert mask_iou(torch.from_numpy(np.stack(dense)), truth[None]).max() == 1


def test_videos_without_anything(pipeline, scene, colour_detector):
    empty = scene(3, {})
    for directions in ("both", "forward", "backward"):
        result = pipeline(directions=directions).run_video(empty)
        assert (result.tracks, result.length) == ([], 3)
    blind = colour_detector(scores=0.4)
    assert pipeline(blind).run_video(scene(2, {1: lambda t: 10})).tracks == []
    none = ArraySource(np.zeros((0, 40, 56, 3), np.uint8), size=(40, 56), image_format="RGB")
    assert pipeline().run_video(none).length == 0


def test_more_objects_than_allowed(pipeline):
    image = np.zeros((2, 40, 56, 3), np.uint8)
    for k in range(18):
        row, column = divmod(k, 6)
        image[:, 2 + 12 * row : 8 + 12 * row, 2 + 9 * column : 8 + 9 * column] = 10 * k + 5
    image[:, 0, 0] = [[200], [201]]
    result = pipeline().run_video(ArraySource(image, image_format="RGB"))
    assert len(result.tracks) == 15
    assert (
        pipeline(rules={"max_objects": 3})
        .run_video(ArraySource(image, image_format="RGB"))
        .tracks[2:]
    )


def test_streams_that_cannot_seek_are_spooled(pipeline, scene):
    source = scene(3, {1: lambda t: 10})
    stream = IterableSource(iter(source.frames), image_format="RGB")
    assert _same(pipeline().run_video(stream), pipeline().run_video(source))
    seen = []
    pipeline().run_video(source, on_frame=lambda frame, result: seen.append(len(result)))
    assert seen == [1, 1, 1]


def test_one_track_score_per_pixel(pipeline, scene, colour_detector):
    model = pipeline(final={"resolve_overlap": True})
    result = model.run_video(scene(4, {1: lambda t: 10 + 3 * t, 2: lambda t: 20 - 3 * t}))
    for t in range(4):
        dense = [decode_mask(k.masks[t]) for k in result.tracks if k.masks[t] is not None]
        assert np.sum(dense, 0).max() <= 1


def test_a_held_object_stays_one_track(pipeline, scene):
    """A board that is lost for some frames in both directions joins again by its owner."""
    board = {0: 12, 1: 12, 4: 32, 5: 32}
    options = {"human_object": True, "person_class": 2, "held_classes": (1,)}
    options["human_object_margin"] = 0.5
    source = scene(6, {2: lambda t: 12 + 4 * t, 1: board.get})
    for join, boards in ((True, 1), (False, 2)):
        model = pipeline(
            select="segmentation",
            final={**options, "human_object": join},
            propagator=_Forgetful(),
        )
        tracks = model.run_video(source).tracks
        assert sum(track.category == 1 for track in tracks) == boards


class _Forgetful(torch.nn.Module):
    """A propagator whose objects move on by four columns and vanish when they rest."""

    def reset(self, size) -> None:
        self.size, self.labels = size, None

    def predict(self, frame):
        from vis_projects.modeling import Propagation

        labels = self.labels.clone()
        step = 4 if frame.index > self.index else -4
        image = frame.image[0]
        labels = labels.roll(step, 1)
        labels[(image == 0) & (labels > 0)] = 0
        return Propagation([], labels, labels[None])

    def commit(self, label_map, new_ids=(), *, frame=None, reference=False) -> None:
        self.labels, self.index = label_map, frame.index


@pytest.mark.parametrize("name", ["CopyFirstPropagator", "CFBIPropagator", "FRTMPropagator"])
def test_propagators_and_the_cache_limit(scene, name):
    """Results do not depend on FEATURE_CACHE_MB, with any propagator."""
    opts = ["MODEL.PROPAGATOR.NAME", name]
    if name == "FRTMPropagator":
        opts += ["MODEL.FRTM.DEPTH", "18"]
    source = scene(3, {1: lambda t: 10 + 2 * t, 2: lambda t: 30})
    results, caches = [], []
    for limit in (0.0, 0.1, math.inf):
        model = _tiny(*opts, "MODEL.FEATURE_CACHE_MB", str(limit) if limit < 1e9 else "1e9")
        results.append(model.run_video(source))
        caches.append(len(model.features))
    assert len(results[0].tracks) > 0
    assert _same(results[0], results[1])
    assert _same(results[0], results[2])
    assert caches == [0, 0, 0]  # cleared after the video


def test_features_are_shared_by_the_directions(scene):
    model = _tiny()
    misses = []
    clear = model.features.clear
    model.features.clear = lambda: (misses.append(model.features.misses), clear())
    model.run_video(scene(4, {1: lambda t: 10}))
    assert misses == [4]


def test_mask_rcnn_is_a_detector_too(scene):
    model = _tiny(
        *("MODEL.MSN.DETECTOR", "GeneralizedRCNN", "MODEL.MSN.CASCADE_STYLE", ""),
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    )
    assert type(model.detector).__name__ == "GeneralizedRCNN"
    assert len(model.run_video(scene(2, {1: lambda t: 10})).tracks) > 0


def test_an_image_gives_detections_without_ids(pipeline, scene):
    frame = scene(1, {1: lambda t: 10})[0]
    (out,) = pipeline()([{"image": frame.image, "height": 40, "width": 56}])
    assert out["instances"].pred_classes.tolist() == [1]
    assert not out["instances"].has("pred_ids")


def test_user_errors(pipeline, scene):
    source = scene(1, {})
    with pytest.raises(InputError, match="MSN.SELECT 'best'"):
        pipeline(select="best")
    with pytest.raises(InputError, match="MSN.DIRECTIONS"):
        pipeline(directions="up")
    with pytest.raises(InputError, match="MERGE_CHOICE"):
        pipeline(final={"merge_choice": "late"})
    with pytest.raises(InputError, match="takes no masks"):
        pipeline().run_video(source, {0: np.zeros((40, 56))})
    with pytest.raises(InputError, match="ground_truth"):
        pipeline(select="oracle").run_video(source)
    with pytest.raises(InputError, match="MSN.DETECTOR 'YOLO'"):
        _tiny("MODEL.MSN.DETECTOR", "YOLO")


# Parts ------------------------------------------------------------------------------------------


def test_chooser_antisymmetry_and_empty_masks():
    from vis_projects.msn.selection_network import PatchSelector

    torch.manual_seed(0)
    chooser = MaskChooser(PatchSelector(width=4, layers=2).eval(), size=32, symmetric=True)
    image, a, b = torch.rand(3, 30, 30), *(torch.rand(2, 3, 30, 30) > 0.5)
    with torch.no_grad():
        ab, ba = chooser.probability(image, a, b), chooser.probability(image, b, a)
        torch.testing.assert_close(ab + ba, torch.ones(3))
        a[0] = b[1] = a[2] = b[2] = False
        assert chooser.probability(image, a, b).tolist() == [0.0, 1.0, 0.5]
        assert chooser.probability(image, a[:0], b[:0]).shape == (0,)


def test_oracle():
    truth = torch.zeros(2, 8, 8, dtype=torch.bool)
    truth[0, :4], truth[1, 4:] = True, True
    a, b = truth.clone(), truth.clone()
    a[0, 0] = b[1, 7] = False
    assert oracle_choice(truth, a, b).tolist() == [False, True]
    assert oracle_choice(truth[:0], a, b).tolist() == [True, True]


def test_reclassification_replaces_only_sure_classes():
    class Sure(Reclassifier):
        def classify(self, image, boxes):
            self.boxes = boxes
            return np.array([[0.05, 0.95], [0.3, 0.7]])

    found = Instances((20, 30))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 0, 20, 10], [0, 0, 5, 5]]))
    found.pred_classes = torch.tensor([0, 0])
    found.scores = torch.tensor([0.6, 0.7])
    classifier = Sure()
    out = reclassify(found, np.zeros((20, 30, 3), np.uint8), classifier)
    assert out.pred_classes.tolist() == [1, 0]
    assert out.scores.tolist() == pytest.approx([0.6, 0.7])
    assert classifier.boxes[0].tolist() == [9, 0, 21, 11]
    assert reclassify(found[:0], np.zeros((20, 30, 3), np.uint8), classifier) is not None
    assert grown_boxes(np.zeros((0, 4)), (5, 5), 0.1).shape == (0, 4)


def test_clean_up_drops_border_and_small_parts():
    labels = torch.zeros(20, 30, dtype=torch.int64)
    labels[2:12, 2:12] = 1
    labels[15:18, 20:23] = 1  # small
    labels[0, :] = 2
    out = clean_up(labels, [1, 2])
    assert (out == 1).sum() == 100
    assert not (out == 2).any()


def test_state_dict_has_three_prefixes_and_joins(tmp_path):
    from vis_projects.engine import load_weights
    from vis_projects.msn.join_weights import join_weights, main

    model = _tiny()
    state = model.state_dict()
    assert {k.split(".")[0] for k in state} == {"detector", "propagator", "selector"}
    parts = {
        p: {k.removeprefix(p + "."): v for k, v in state.items() if k.startswith(p)}
        for p in ("detector", "propagator", "selector")
    }
    parts["selector"] = {f"selector.{k}": v for k, v in parts["selector"].items()}
    assert join_weights(parts).keys() == state.keys()
    for p, part in parts.items():
        torch.save({"model": part}, tmp_path / f"{p}.pth")
    main([*(x for p in parts for x in (f"--{p}", str(tmp_path / f"{p}.pth"))), str(tmp_path / "o")])
    other = _tiny()
    for parameter in other.parameters():
        parameter.data.zero_()
    load_weights(other, str(tmp_path / "o"))
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
    with pytest.raises(InputError, match="nothing to join"):
        main([str(tmp_path / "x.pth")])


def test_video_id_reaches_the_oracle(pipeline, scene):
    model = pipeline(select="oracle")
    asked = set()
    model.ground_truth = lambda video, t: (asked.add(video), torch.zeros(0, 40, 56).bool())[1]
    source = scene(2, {1: lambda t: 10})
    model.run_video(source, info=replace(VideoInfo(source.size, 2), video_id=7))
    assert asked == {7}
    assert isinstance(source[0], Frame)
