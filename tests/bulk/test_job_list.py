"""What a command line means: videos, names, masks, shards, and what the manifest keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vis_projects.bulk import Entry, Manifest, is_single, list_videos, make_jobs, parse_shard
from vis_projects.bulk.manifest import DONE, FAILED, RUNNING
from vis_projects.cli.run import split_words
from vis_projects.structures import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch) -> Path:
    """Videos of one name, frame folders, an empty folder, hidden files, other files."""
    for name in ("a/clip10.mp4", "a/clip2.MP4", "b/clip2.mov", "a/.hidden.mp4", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("f/one/0.jpg", "f/two/0.png", "f/__MACOSX/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "f/none").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_are_no_videos_each(tree: Path) -> None:
    """``vis run frames/*.jpg``, expanded by the shell."""
    files = [f"f/one/{t}.jpg" for t in range(3)]
    with pytest.raises(InputError, match="3 images; the frames .* by their folder: f/one"):
        list_videos(files)


def test_every_form_of_input(tree: Path) -> None:
    assert list_videos(["a"]) == ["a/clip2.MP4", "a/clip10.mp4"]
    assert list_videos(["f"]) == ["f/none", "f/one", "f/two"]
    assert list_videos(["f/one"]) == ["f/one"]
    assert list_videos(["*/clip*"]) == ["a/clip2.MP4", "a/clip10.mp4", "b/clip2.mov"]
    assert list_videos(["b/clip2.mov", "b"]) == ["b/clip2.mov"]
    assert list_videos(["rtsp://host/x", "http://h/v.mp4"]) == ["rtsp://host/x", "http://h/v.mp4"]
    (tree / "l.txt").write_text("\ufeff# a comment\r\nb/clip2.mov\r\n\nf/one\ngone.mp4\n")
    (tree / "sub").mkdir()
    found = list_videos([f"@{tree}/l.txt"])
    assert [Path(v).name for v in found] == ["clip2.mov", "one", "gone.mp4"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone.mp4", "no such file or folder"),
        ("z*.mp4", "no video matches"),
        ("@gone.txt", "cannot be read"),
        ("@a/notes.txt", None),
    ],
)
def test_what_is_nothing_is_named(given: str, message: str | None, tree: Path) -> None:
    if message is None:
        (tree / "a/notes.txt").write_text("# nothing\n")
        message = "names no video"
    with pytest.raises(InputError, match=message):
        list_videos([given])


def test_one_video_keeps_the_plain_layout(tree: Path) -> None:
    assert is_single(["a/clip10.mp4"]) and is_single(["f/one"]) and is_single(["0"])
    assert is_single(["rtsp://host/x"]) and is_single(["gone.mp4"]) and is_single(["f/none"])
    for inputs in (["a"], ["f"], ["a/*.mp4"], ["@l.txt"], ["a/clip10.mp4", "b/clip2.mov"]):
        assert not is_single(inputs), inputs


def test_names_are_unique_safe_and_stay(tree: Path) -> None:
    videos = ["a/clip2.MP4", "b/clip2.mov", "x/ü b?.mp4", "rtsp://host:1/x/../y", "c/manifest.mp4"]
    jobs = make_jobs(videos, mask="m/{name}-{parent}.png")
    names = [job.name for job in jobs]
    assert names[:2] == ["a_clip2", "b_clip2"]
    assert len({n.lower() for n in names}) == len(names)
    assert all(n.isascii() and "/" not in n and n not in ("..", ".") for n in names)
    assert jobs[0].mask == "m/a_clip2-a.png"
    again = make_jobs(["b/clip2.mov", *videos], known={"a/clip2.MP4": "clip2"})
    assert {j.input: j.name for j in again}["a/clip2.MP4"] == "clip2"
    assert make_jobs(["b/Clip.mp4", "c/clip.mp4"])[0].name == "b_Clip"
    many = make_jobs(["q/b/c.mp4", "r/b/c.mp4"])
    assert [j.name for j in many] == ["b_c", "b_c_2"]
    with pytest.raises(InputError, match="pattern may hold"):
        make_jobs(videos, mask="{nam}.png")


def test_shards_cover_all_once() -> None:
    parts = [parse_shard(f"{i}/3") for i in (1, 2, 3)]
    jobs = list(range(10))
    assert sorted(j for number, count in parts for j in jobs[number::count]) == jobs
    assert parse_shard("") == (0, 1)
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
    assert parse_shard("slurm", array) == (2, 4)
    assert parse_shard("slurm", {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == (1, 2)
    both = {**array, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    assert parse_shard("slurm", both) == (5, 8)
    assert parse_shard("torchrun", {"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)
    for text in ("0/3", "4/3", "x", "1", "slurm", "torchrun"):
        with pytest.raises(InputError, match=f"--shard {text}"):
            parse_shard(text, {})


def test_words_are_inputs_then_options(tree: Path) -> None:
    (tree / "SEED").write_text("")
    words = ["a/clip10.mp4", "SEED", "MODEL.WEIGHTS", "w.pth", "SOLVER.MAX_ITER", "3"]
    assert split_words(words) == (words[:2], words[2:])
    assert split_words(["clip.mp4"]) == (["clip.mp4"], [])


def entry(name: str, state: str, **more) -> Entry:
    return Entry(name, f"in/{name}.mp4", state, **more)


def test_the_manifest_survives_a_cut_line_and_keeps_the_last_word(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    for found in (entry("b", RUNNING), entry("a", DONE, frames=3), entry("b", FAILED, error="x")):
        manifest.add(found, {"seconds": 1.0})
    with open(manifest.file, "a") as file:
        file.write('{"name": "c", "inp')
    again = Manifest(tmp_path)
    again.load()
    assert again.entries == manifest.entries
    again.compact(["a", "b", "c"])
    rows = [json.loads(row) for row in manifest.file.read_text().splitlines()]
    assert [(row["name"], row["state"]) for row in rows] == [("a", DONE), ("b", FAILED)]
    assert "seconds" not in rows[0]
    assert len(manifest.times.read_text().splitlines()) == 3


def test_shards_join_when_all_are_through(tmp_path: Path) -> None:
    first, second = Manifest(tmp_path, (0, 2)), Manifest(tmp_path, (1, 2))
    first.add(entry("a", DONE))
    assert not first.join_shards(["a", "b"])
    second.add(entry("b", FAILED, error="x"))
    assert second.join_shards(["a", "b"])
    rows = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["a", "b"]
