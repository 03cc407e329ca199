"""The evaluator: what it writes, how it goes on after an interruption, what it scores."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from vis_projects.evaluation import FailedVideo, VideoEvaluator
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
    """Two objects over three frames; they overlap, and the second leaves."""
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
    truth[:2, 1:3] = 2
    truth[:, :2] = 1  # scores more: lies on top
    meta = metadata("davis_unsup", request.node.name, ground_truth_fn=lambda: {"a": truth})
    scores = run(VideoEvaluator(meta, bootstrap=20), [item()])["vos"]
    assert scores["J&F"] == pytest.approx(100)
    assert scores["J&F_low"] == scores["J&F_high"] == pytest.approx(100)


def test_video_json_holds_what_the_list_cannot(tmp_path: Path, request) -> None:
    meta = metadata("ytvis", request.node.name, thing_classes=["cat", "dog"])
    run(
        VideoEvaluator(meta, tmp_path, system="X"),
        [{**item(), "video_id": 3}, {**item("b"), "video_id": 4}],
    )
    content = json.loads((tmp_path / "video.json").read_text())
    entries = json.loads((tmp_path / "results.json").read_text())
    assert content["system"] == "X"
    first, second = content["videos"]
    assert (first["video_id"], first["name"], first["frames"][1]) == (3, "a", "00001")
    assert first["categories"][1] == {"id": 9, "name": "dog"}
    tracks = second["tracks"]
    assert [t["id"] for t in tracks] == [1, 2]
    assert [entries[i]["score"] for t in tracks for i in t["entries"]] == [0.9, 0.3]
    assert VideoResult.load(tmp_path / "videos" / "3.json").class_names == ["cat", "dog"]


def test_categories_that_the_data_set_lacks_are_left_out(tmp_path: Path, request, caplog) -> None:
    evaluator = VideoEvaluator(metadata("ytvis", request.node.name), tmp_path)
    other = VideoResult([Track(1, {0: 0.5, 5: 0.9}, result().tracks[0].masks)], (4, 6), 3)
    evaluator.reset()
    evaluator.process([{**item(), "video_id": 3}], [other])
    evaluator.evaluate()
    entries = json.loads((tmp_path / "results.json").read_text())
    assert [(e["category_id"], e["score"]) for e in entries] == [(7, 0.5)]
    assert "data set lacks" in caplog.text


def zipped(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "results.zip") as archive:
        return sorted(archive.namelist())


@pytest.mark.parametrize("resume", [False, True])
def test_nothing_of_an_earlier_data_set_is_left(tmp_path: Path, request, resume: bool) -> None:
    meta = metadata("davis_semi", request.node.name)

    def evaluate(items: list[dict]) -> None:
        run(VideoEvaluator(meta, tmp_path, resume=resume), items)

    evaluate([item("a"), item("b")])
    (tmp_path / "results" / "mine").mkdir()
    (tmp_path / "results" / "mine" / "note.txt").write_text("keep")
    evaluate([item("b")])
    assert zipped(tmp_path) == ["b/00000.png", "b/00001.png", "b/00002.png"]
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["b", "mine"]

    def shorter(inputs, evaluator) -> None:
        evaluator.reset()
        assert not evaluator.finished(inputs)
        tracks = [Track(t.id, t.category_scores, t.masks[:2]) for t in result().tracks]
        evaluator.process([inputs], [VideoResult(tracks, (4, 6), 2)])
        evaluator.evaluate()

    shorter(item("b", length=2), VideoEvaluator(meta, tmp_path, resume=resume))
    assert zipped(tmp_path) == ["b/00000.png", "b/00001.png"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, request) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "0123456789abcdef.json").write_text("precious")
    run(VideoEvaluator(metadata("davis_semi", request.node.name), tmp_path), [item()])
    assert (tmp_path / "videos" / "0123456789abcdef.json").read_text() == "precious"


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a/../../x"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, request, name: str) -> None:
    evaluator = VideoEvaluator(metadata("davis_semi", request.node.name), tmp_path / "out")
    evaluator.reset()
    with pytest.raises(InputError, match="rename the video"):
        evaluator.process([item(name)], [result()])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("incomplete", [False, True])
def test_a_failed_video_is_recorded(tmp_path: Path, request, incomplete: bool, caplog) -> None:
    truth = np.zeros((3, 4, 6), np.uint8)
    truth[:2, 1:3] = 2
    truth[:, :2] = 1  # scores more: lies on top
    maps = {"a": truth, "b": truth}
    meta = metadata("davis_unsup", request.node.name, ground_truth_fn=lambda: maps)
    evaluator = VideoEvaluator(meta, tmp_path, score_incomplete=incomplete)
    evaluator.reset()
    evaluator.process([item("a")], [result()])
    evaluator.process([item("b")], [FailedVideo("b/00001.jpg: truncated")])
    scores = evaluator.evaluate()
    assert evaluator.failed == {"b": "b/00001.jpg: truncated"}
    assert bool(scores) == incomplete
    if incomplete:
        assert scores["vos"]["J&F"] == pytest.approx(100)
    lines = [json.loads(x) for x in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(x["name"], x["state"]) for x in lines] == [("a", "done"), ("b", "failed")]
    assert "b/00001.jpg: truncated" in caplog.text
    assert zipped(tmp_path) == [f"a/0000{t}.png" for t in range(3)]


def test_incomplete_tracks_are_scored_without_the_missing_video(tmp_path: Path, request) -> None:
    truth = {
        "videos": [{"id": i, "height": 4, "width": 6, "length": 3} for i in (1, 2)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": i, "video_id": i, "category_id": 7, "segmentations": encoded(0)} for i in (1, 2)
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    meta = metadata("ytvis", request.node.name, json_file=str(tmp_path / "gt.json"))
    evaluator = VideoEvaluator(meta, tmp_path / "out", score_incomplete=True)
    evaluator.reset()
    evaluator.process([{**item(), "video_id": 1}], [result()])
    evaluator.process([{**item(), "video_id": 2}], [FailedVideo("broken")])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def encoded(row: int) -> list:
    return [r if m.any() else None for r, m in zip(encode_masks(masks()[row]), masks()[row])]


@pytest.mark.parametrize(
    ("name", "text"),
    [("own_uvos:x", "no ground truth; results"), ("davis_2017_test_dev", "upload")],
)
def test_only_benchmarks_have_a_server(tmp_path: Path, request, name, text, caplog) -> None:
    meta = SimpleNamespace(name=name, evaluator_type="davis_unsup")
    meta.get = lambda key, default: getattr(meta, key, default)
    with caplog.at_level("INFO"):
        run(VideoEvaluator(meta, tmp_path), [item()])
    assert text in caplog.text
    assert ("server" in caplog.text) == (text == "upload")


def test_unknown_kind_is_named(request) -> None:
    with pytest.raises(InputError, match="none of ytvis"):
        VideoEvaluator(metadata("coco", request.node.name))
