"""The evaluator: what it writes, how it goes on after an interruption, what it scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from vis_projects.evaluation import VideoEvaluator
from vis_projects.structures import InputError, Track, VideoResult, encode_masks


def metadata(kind: str, name: str, **more):
    meta = MetadataCatalog.get(f"evaluator_{kind}_{name}")
    meta.set(evaluator_type=kind, thing_dataset_id_to_contiguous_id={7: 0, 9: 1}, **more)
    return meta


def item(name: str = "a", length: int = 3, **more) -> dict:
    names = [f"{t:05d}" for t in range(length)]
    return {"video_id": name, "name": name, "height": 4, "width": 6, "length": length,
            "frame_names": names, **more}  # fmt: skip


def masks() -> np.ndarray:
    """Two objects over three frames; the second lies over the first and leaves."""
    out = np.zeros((2, 3, 4, 6), bool)
    out[0, :, :2] = True
    out[1, :2, 1:3] = True
    return out


def result(scores: tuple[float, float] = (0.9, 0.3)) -> VideoResult:
    tracks = []
    for i, (tube, score) in enumerate(zip(masks(), scores)):
        rles = [r if m.any() else None for r, m in zip(encode_masks(tube), tube)]
        tracks.append(Track(i + 1, {i: score}, rles))
    return VideoResult(tracks, (4, 6), 3)


def run(evaluator: VideoEvaluator, items: list[dict]):
    evaluator.reset()
    for entry in items:
        if not evaluator.finished(entry):
            evaluator.process([entry], [result()])
    return evaluator.evaluate()


def read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_ids_of_the_data_set_are_written(tmp_path: Path, request) -> None:
    evaluator = VideoEvaluator(metadata("ytvis", request.node.name), tmp_path)
    assert run(evaluator, [{**item(), "video_id": 3}]) == {}
    entries = json.loads((tmp_path / "results.json").read_text())
    assert [(e["category_id"], e["score"]) for e in entries] == [(7, 0.9), (9, 0.3)]
    assert entries[1]["segmentations"][2] is None
    assert (tmp_path / "results.zip").is_file()


def test_foreground_is_what_scores_enough(tmp_path: Path, request) -> None:
    evaluator = VideoEvaluator(
        metadata("davis_2016", request.node.name), tmp_path, foreground_thresh=0.5
    )
    run(evaluator, [item()])
    found = read(tmp_path / "results" / "a" / "00000.png")
    assert np.array_equal(found, masks()[0, 0].astype(np.uint8))


def test_scored_frames_alone_are_written(tmp_path: Path, request, monkeypatch) -> None:
    evaluator = VideoEvaluator(metadata("ytvos", request.node.name), tmp_path)
    run(evaluator, [item(scored_frames=[0, 2])])
    files = sorted(f.name for f in (tmp_path / "Annotations" / "a").iterdir())
    assert files == ["00000.png", "00002.png"]


def test_interrupted_evaluation_goes_on(tmp_path: Path, request) -> None:
    meta = metadata("davis_unsup", request.node.name)
    first = VideoEvaluator(meta, tmp_path, fingerprint="x")
    first.reset()
    first.process([item("a")], [result()])  # killed here

    def again(fingerprint: str) -> list[bool]:
        evaluator = VideoEvaluator(meta, tmp_path, fingerprint=fingerprint, resume=True)
        evaluator.reset()
        finished = [evaluator.finished(item(n)) for n in "ab"]
        for name, done in zip("ab", finished):
            if not done:
                evaluator.process([item(name)], [result()])
        assert evaluator.evaluate() == {}
        return finished

    assert again("x") == [True, False]
    assert len(list((tmp_path / "results").iterdir())) == 2
    assert again("other weights") == [False, False]
    assert again("other weights") == [True, True]


def test_results_of_another_size_or_length_are_refused(tmp_path: Path, request) -> None:
    evaluator = VideoEvaluator(metadata("ytvis", request.node.name), tmp_path)
    evaluator.reset()
    with pytest.raises(ValueError, match="video a"):
        evaluator.process([item(length=4)], [result()])


def test_ground_truth_in_memory_is_scored(tmp_path: Path, request) -> None:
    truth = np.zeros((3, 4, 6), np.uint8)
    truth[:, :2] = 1
    truth[:2, 1:3] = 2
    meta = metadata("davis_unsup", request.node.name, ground_truth_fn=lambda: {"a": truth})
    scores = run(VideoEvaluator(meta, bootstrap=20), [item()])["vos"]
    assert scores["J&F"] == pytest.approx(100)
    assert scores["J&F_low"] == scores["J&F_high"] == pytest.approx(100)


def test_unknown_kind_is_named(request) -> None:
    with pytest.raises(InputError, match="none of ytvis"):
        VideoEvaluator(metadata("coco", request.node.name))
