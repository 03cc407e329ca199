"""The state of an annotated video: every action can be undone, nothing is lost, ids stay."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vis_projects.annotate.project import Project, doubtful_frames
from vis_projects.structures import InputError
from vis_projects.structures.masks import encode_masks

SIZE, T = (12, 16), 6


def make(folder: Path) -> Project:
    return Project(folder, video="clip.mp4", size=SIZE, length=T)


def box(top: int, left: int, size: int = 4) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + size, left : left + size] = True
    return mask


def rle_of(mask: np.ndarray) -> dict:
    return encode_masks(mask[None])[0]


def contents(project: Project) -> dict:
    state = project.state()
    for key in ("revision", "undo", "redo"):
        state.pop(key)
    return {"state": state, "labels": [project.label_map(t).tolist() for t in range(T)]}


def filled(folder: Path) -> Project:
    project = make(folder)
    for name, place in (("cat", (0, 0)), ("dog", (6, 8))):
        number = project.add_object(name)
        project.draw(0, number, box(*place))
        with project.following(range(1, T)):
            for t in range(1, T):
                project.follow(t, {number: box(place[0], place[1] + t % 3)})
    return project


def test_it_opens_again_as_it_was(tmp_path: Path) -> None:
    project = filled(tmp_path / "p")
    project.split(1, 3)
    project.rename(2, "hound")
    assert contents(make(tmp_path / "p")) == contents(project)
    assert not list((tmp_path / "p").rglob("*.part"))


def test_the_newest_drawing_has_the_pixels(tmp_path: Path) -> None:
    project = filled(tmp_path)
    project.draw(2, 2, box(0, 0, 3))
    assert not (project.mask(2, 1) & project.mask(2, 2)).any()
    assert project.mask(2, 2).sum() == 9
    with project.following([2]):
        project.follow(2, {2: box(6, 6)})  # a system never replaces what a person drew
    assert project.mask(2, 2).sum() == 9


def test_objects_merge_and_split(tmp_path: Path) -> None:
    project = filled(tmp_path)
    union = project.mask(3, 1) | project.mask(3, 2)
    project.merge(2, into=1)
    assert list(project.objects) == [1]
    assert np.array_equal(project.mask(3, 1), union)
    new = project.split(1, 4)
    assert new == 3 and project.objects[3].name == "cat"
    assert not project.mask(4, 1).any() and project.mask(4, 3).any()
    assert project.mask(3, 1).any() and not project.mask(3, 3).any()


def test_delete_from_here_on(tmp_path: Path) -> None:
    project = filled(tmp_path)
    project.delete(1, 3)
    assert [project.mask(t, 1).any() for t in range(T)] == [True] * 3 + [False] * 3
    project.delete(1)
    assert list(project.objects) == [2]
    assert [t.id for t in project.result().tracks] == [2]


@pytest.mark.parametrize("seed", range(8))
def test_undo_and_redo_pass_through_every_state(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    project = filled(tmp_path)
    seen = [contents(project)]
    for _ in range(12):
        ids = list(project.objects) or [project.add_object()]
        if not seen or (len(project.objects) == 1 and contents(project) != seen[-1]):
            seen.append(contents(project))
        number, t = rng.choice(ids), rng.randrange(T)
        action = rng.choice(["draw", "erase", "delete", "merge", "split", "rename", "add"])
        if action == "draw":
            project.draw(t, number, box(rng.randrange(8), rng.randrange(10)))
        elif action == "erase":
            project.erase(t, number)
        elif action == "delete":
            project.delete(number, t)
        elif action == "merge":
            other = rng.choice(ids)
            if other == number:
                continue
            project.merge(number, into=other)
        elif action == "split":
            project.split(number, t)
        elif action == "rename":
            project.rename(number, f"n{t}")
        else:
            project.add_object()
        seen.append(contents(project))
    for wanted in seen[-2::-1]:
        assert project.undo()
        assert contents(project) == wanted
        assert contents(make(tmp_path)) == wanted  # written, too
    for wanted in seen[1:]:
        assert project.redo()
        assert contents(project) == wanted


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "p")
    with pytest.raises(InputError, match=r"belongs to clip\.mp4"):
        Project(tmp_path / "p", video="other.mp4", size=SIZE, length=T)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "annotations.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"annotations\.json"):
        make(tmp_path / "q")
    (tmp_path / "f").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        make(tmp_path / "f")


def test_doubtful_frames() -> None:
    areas = {0: 100, 1: 110, 2: 300, 3: 310, 6: 305}
    assert doubtful_frames(areas, drawn=[]) == [2, 6]
    assert doubtful_frames(areas, drawn=[2]) == [6]


def test_unknown_objects_and_frames_are_named(tmp_path: Path) -> None:
    project = filled(tmp_path)
    for work in (
        lambda: project.draw(T, 1, box(0, 0)),
        lambda: project.draw(0, 9, box(0, 0)),
        lambda: project.rename(9, "x"),
        lambda: project.merge(1, into=1),
        lambda: project.draw(0, 1, np.zeros((3, 3), bool)),
    ):
        before = contents(project)
        with pytest.raises(InputError):
            work()
        assert contents(project) == before


def test_undo_remembers_references_and_not_copies(tmp_path: Path) -> None:
    """Actions over a long video cost no copy of every frame, and nothing where nothing changes."""
    length = 100
    project = Project(tmp_path, video="clip.mp4", size=SIZE, length=length)
    number = project.add_object()
    for t in range(length):
        project._frames[t] = project._frame(t).put("followed", number, rle_of(box(0, 0)))
    before = dict(project._frames)
    tracemalloc.start()
    project.delete(number, 1)
    assert all(project._undo[-1]["frames"][t] is before[t] for t in range(1, length))
    for _ in range(30):
        project.delete(number, 1)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 4e5, f"{grown / 1e6:.2f} MB for 31 actions"


def test_undo_has_a_limit_in_bytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vis_projects.annotate.project._UNDO_MB", 300 / 2**20)
    project = filled(tmp_path)
    sizes = []
    for n in range(30):
        project.draw(n % T, 1, box(n % 5, n % 7))
        kept = [f.bytes for before in project._undo for f in before["frames"].values()]
        sizes.append(sum(kept))
    assert max(sizes) <= 300 and len(project._undo) >= 5
    before = contents(project)
    while project.undo():
        pass
    while project.redo():
        pass
    assert contents(project) == before
