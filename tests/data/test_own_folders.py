"""A user's own videos with masks: what is on disk is what is given, trained and scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects.cli import main
from vis_projects.data import load_videos
from vis_projects.data.catalog import get_metadata, unregister_dataset
from vis_projects.data.test_loader import given_masks
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import InputError, Track, VideoResult
from vis_projects.structures.exports import write_pair
from vis_projects.structures.masks import encode_masks

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/copy_first/davis2017.yaml")
LENGTH = 12


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """One video of unpadded numbers, two objects in every mask."""
    write(tmp_path)
    return tmp_path


def write(root: Path, *, name: str = "v", form: str = "{}", masks=range(LENGTH)) -> None:
    images, labels = moving_boxes((48, 64), 2, frames=LENGTH)
    for part in ("JPEGImages", "Annotations"):
        (root / part / name).mkdir(parents=True, exist_ok=True)
    for t in range(LENGTH):
        cv2.imwrite(str(root / "JPEGImages" / name / f"{form.format(t)}.jpg"), images[t])
        if t in masks:
            Image.fromarray(labels[t]).save(root / "Annotations" / name / f"{form.format(t)}.png")


def each_mask(root: Path, change, *, suffix: str = ".png") -> None:
    for file in sorted((root / "Annotations/v").iterdir()):
        labels = change(np.asarray(Image.open(file)), int(file.stem))
        file.unlink()
        Image.fromarray(labels).save(file.with_suffix(suffix))


def video(root: Path, kind: str = "own_vos"):
    name = f"{kind}:{root}"
    unregister_dataset(name)
    return load_videos(name)[0]


def score(
    root: Path, out: Path, kind: str = "own_vos", *more: str, results: str | Path = ""
) -> dict[str, float]:
    options = ["DATASETS.TEST", f"('{kind}:{root}',)", "OUTPUT_DIR", str(out), *more]
    unregister_dataset(f"{kind}:{root}")
    argv = ["--config-file", CONFIG, "--num-gpus", "0", "--results", str(results)]
    assert main(["eval", *argv, *options]) == 0
    found = json.loads((out / "scores.json").read_text())
    return next(iter(found.values()))["vos"] if "vos" not in found else found["vos"]


def test_frames_and_masks_pair_in_the_order_of_numbers(place: Path) -> None:
    record = video(place)
    assert [Path(f).stem for f in record["file_names"]] == [str(t) for t in range(LENGTH)]
    assert [Path(f).stem for f in record["annotations"].files] == [str(t) for t in range(LENGTH)]


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".TIFF", ".bmp"])
def test_masks_of_any_suffix(place: Path, suffix: str) -> None:
    each_mask(place, lambda labels, t: labels, suffix=suffix)
    record = video(place)
    assert [o["id"] for o in record["objects"]] == [1, 2]
    assert all(record["annotations"].has_labels(t) for t in range(LENGTH))


def test_system_files_are_no_masks_and_no_videos(place: Path) -> None:
    for folder in ("JPEGImages", "JPEGImages/v", "Annotations", "Annotations/v"):
        for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"):
            (place / folder / name).write_bytes(b"x")
    (place / "JPEGImages/__MACOSX").mkdir()
    (place / "JPEGImages/.cache").mkdir()
    record = video(place)
    assert record["name"] == "v" and record["length"] == LENGTH


@pytest.mark.parametrize("kind", ["own_vos", "own_uvos"])
def test_black_and_white_masks_are_one_object(place: Path, tmp_path: Path, kind: str) -> None:
    each_mask(place, lambda labels, t: (labels == 1).astype(np.uint8) * 255)
    record = video(place, kind)
    assert record["objects"] == [{"id": 1, "category_id": 0, "identity": 0}]
    assert record["annotations"].label_map(3).max() == 1
    if kind == "own_vos":
        assert set(np.unique(given_masks(record)[0])) == {0, 1}
        scores = score(place, tmp_path / "out")
        assert scores["J&F"] > 5


def test_void_beside_ids_is_no_object(place: Path) -> None:
    def with_void(labels: np.ndarray, t: int) -> np.ndarray:
        labels = labels.copy()
        labels[:2] = 255
        return labels if t else np.where(labels > 200, 255, 0).astype(np.uint8)

    each_mask(place, with_void)  # void alone in the first frame: both objects enter in the second
    record = video(place)
    assert record["starts"] == {1: [1, 2]}


def test_objects_that_enter_later_are_given_there(place: Path, tmp_path: Path) -> None:
    each_mask(place, lambda labels, t: np.where((labels == 2) & (t < 10), 0, labels))
    record = video(place)
    assert record["starts"] == {0: [1], 10: [2]}
    masks = given_masks(record)
    assert set(np.unique(masks[0])) == {0, 1} and set(np.unique(masks[10])) == {0, 2}
    scores = score(place, tmp_path / "out")
    assert {k for k in scores if k.startswith("J&F-")} == {"J&F-v_1"} or "J&F-v_2" in scores


def test_found_objects_that_enter_later_are_scored_too(place: Path, tmp_path: Path) -> None:
    """Where nobody gives objects: from their first masks on, unlike the official tool."""
    each_mask(place, lambda labels, t: np.where((labels == 2) & (t < 8), 0, labels))
    maps = [np.asarray(Image.open(place / f"Annotations/v/{t}.png")) for t in range(LENGTH)]
    masks = {1: [m == 1 for m in maps], 2: [(m == 2) & (t != 11) for t, m in enumerate(maps)]}
    tracks = []
    for i, found in masks.items():
        rles = encode_masks(np.stack(found))
        tracks.append(Track(i, {0: 0.9}, [r if m.any() else None for r, m in zip(rles, found)]))
    result = VideoResult(tracks, (48, 64), LENGTH, name="v")
    write_pair(result, tmp_path / "run/v")
    scores = score(place, tmp_path / "out", "own_uvos", results=tmp_path / "run")
    assert scores["J&F-v_1"] == pytest.approx(100)
    assert scores["J&F-v_2"] == pytest.approx(75)  # missed in one of its four frames


def test_ids_with_gaps_are_scored_as_they_are(place: Path, tmp_path: Path) -> None:
    plain = score(place, tmp_path / "plain")
    each_mask(place, lambda labels, t: np.array([0, 5, 9], np.uint8)[labels])
    assert [o["id"] for o in video(place)["objects"]] == [5, 9]
    assert score(place, tmp_path / "gaps")["J&F"] == pytest.approx(plain["J&F"])


@pytest.mark.parametrize("masks", [(0,), (0, 5), ()])
def test_sparse_masks(tmp_path: Path, masks: tuple[int, ...]) -> None:
    write(tmp_path, masks=masks)
    record = video(tmp_path)
    assert [o["id"] for o in record["objects"]] == ([1, 2] if masks else [])
    truth = get_metadata(f"own_vos:{tmp_path}").get("gt_root", None)
    assert (truth is not None) == (len(masks) > 1)


def test_a_second_video_without_masks_stays(place: Path, tmp_path: Path) -> None:
    write(place, name="w", masks=())
    videos = load_videos(f"own_uvos:{place}")
    assert [v["name"] for v in videos] == ["v", "w"]


NAMED = {
    "soft": (
        lambda d: each_mask(d, lambda m, t: cv2.GaussianBlur(((m == 1) * 255.0), (0, 0), 2)
                            .astype(np.uint8)),
        r"Annotations/v/0\.png.*soft mask .* threshold",
    ),
    "high ids": (
        lambda d: each_mask(d, lambda m, t: m.astype(np.uint16) * 200),
        r"Annotations/v/0\.png: id 400",
    ),
    "lossy": (
        lambda d: each_mask(d, lambda m, t: m * 100, suffix=".jpg"),
        r"Annotations/v: holds 0\.jpg, but no mask",
    ),
    "another video": (
        lambda d: (d / "Annotations/v").rename(d / "Annotations/w"),
        r"Annotations/w: masks of a video that is not in",
    ),
    "loose masks": (
        lambda d: [
            *((f.rename(d / "Annotations" / f.name)) for f in (d / "Annotations/v").iterdir()),
            (d / "Annotations/v").rmdir(),
        ],
        r"Annotations/0\.png: masks lie in a folder named after their video",
    ),
    "two masks of a frame": (
        lambda d: Image.new("L", (64, 48)).save(d / "Annotations/v/0.tif"),
        r"0\.png and 0\.tif could both be the mask",
    ),
    "a mask without frame": (
        lambda d: Image.new("L", (64, 48)).save(d / "Annotations/v/99.png"),
        r"99\.png: a mask without frame",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(NAMED))
def test_what_cannot_be_right_is_named(place: Path, case: str) -> None:
    change, words = NAMED[case]
    change(place)
    with pytest.raises(InputError, match=words):
        video(place)


def test_turned_frames_take_upright_masks(tmp_path: Path, capsys) -> None:
    """EXIF 6: stored 64 wide x 48 high, seen by everybody, and masked, 48 wide x 64 high."""
    images, labels = moving_boxes((48, 64), 1, frames=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("JPEGImages/v", "Annotations/v"):
        (tmp_path / part).mkdir(parents=True)
    for t in range(4):
        Image.fromarray(images[t]).save(tmp_path / f"JPEGImages/v/{t}.jpg", exif=exif)
        Image.fromarray(np.rot90(labels[t], 3)).save(tmp_path / f"Annotations/v/{t}.png")
    record = video(tmp_path)
    assert (record["height"], record["width"]) == (64, 48)
    assert main(["data", "check", f"own_vos:{tmp_path}"]) == 0
    assert "1 video, 4 frames, 1 object, 4 masks" in capsys.readouterr().out
    assert score(tmp_path, tmp_path / "out")["J&F"] > 20


def test_no_object_is_never_good(place: Path, capsys) -> None:
    each_mask(place, lambda labels, t: labels * 0)
    unregister_dataset(f"own_vos:{place}")
    assert main(["data", "check", f"own_vos:{place}"]) == 2
    assert "no object" in capsys.readouterr().err
    shutil.rmtree(place / "Annotations")
    unregister_dataset(f"own_vos:{place}")
    assert main(["data", "check", f"own_vos:{place}"]) == 0
    told = capsys.readouterr().out
    assert "readable; 1 video, 12 frames, no ground truth: nothing to train on" in told
