"""``zoo://NAME`` and ``vis weights list|show|get``, from any folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vis_projects.cli import run_script
from vis_projects.weights import read_weights, zoo

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture(autouse=True)
def made_zoo(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Three names: one that ships, one with an address (a file here), one to be fetched by hand."""
    (tmp_path / "zoo/shipped").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    torch.save({"model": STATE}, tmp_path / "zoo/shipped/small.pth")
    torch.save({"state_dict": STATE}, tmp_path / "theirs.pth")
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    entries = [
        {"name": "theirs", "system": "cfbi", "about": "b", "url": str(tmp_path / "theirs.pth"),
         "sha256": digest},
        {"name": "broken", "system": "cfbi", "about": "c", "url": str(tmp_path / "theirs.pth"),
         "sha256": "0" * 64},
        {"name": "far", "system": "frtm", "about": "d", "by_hand": "their page links it"},
    ]  # fmt: skip
    (tmp_path / "zoo/zoo.json").write_text(json.dumps(entries))
    card = {"name": "small", "system": "frtm", "about": "a", "file": "small.pth"}
    (tmp_path / "zoo/shipped/small.json").write_text(json.dumps(card))
    monkeypatch.setattr(zoo, "_HERE", tmp_path / "zoo")
    monkeypatch.chdir(tmp_path / "work")
    zoo.zoo_entries.cache_clear()
    yield tmp_path
    zoo.zoo_entries.cache_clear()


def weights(*words: object) -> int:
    return run_script("weights", [str(w) for w in words], prog="vis weights")


def test_list_and_show(made_zoo, capfd) -> None:
    assert weights("list") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["small", "frtm"], ["theirs", "cfbi"], ["broken", "cfbi"], ["far", "frtm"],
    ]  # fmt: skip
    assert "ships" in lines[0] and "download" in lines[1] and "by hand" in lines[3]
    assert weights("list", "frtm") == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    assert weights("show", "zoo://far") == 0
    assert "by_hand: their page links it" in capfd.readouterr().out
    assert weights("show", made_zoo / "theirs.pth") == 0
    shown = capfd.readouterr().out
    assert "tensors: 1" in shown and "nothing here knows its names, such as 'a.weight'" in shown


def test_get_copies_and_what_cannot_be_got_is_one_line(made_zoo, capfd) -> None:
    assert weights("get", "small", "new/w.pth") == 0 and weights("get", "theirs", ".") == 0
    for copy in ("new/w.pth", "theirs.pth"):
        assert torch.equal(read_weights(copy).state["a.weight"], STATE["a.weight"])
    for name in ("small", "theirs"):
        assert read_weights(f"zoo://{name}").state.keys() == STATE.keys()
    capfd.readouterr()
    for words, said in (
        (("far", "x.pth"), "has to be fetched by hand: their page links it"),
        (("theirs", "."), "exists already"),
        (("broken", "y.pth"), "its sha256 differs"),
        (("smal", "z.pth"), "did you mean small"),
    ):
        assert weights("get", *words) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert said in line
    assert not [f for f in ("x.pth", "y.pth", "z.pth") if Path(f).exists()]
