"""Weight files of every kind: read without running anything, or named for what they are."""

from __future__ import annotations

import argparse
import collections
import gzip
import http.server
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager

import numpy as np
import official_files as files
import pytest
import torch

from vis_projects.structures import InputError
from vis_projects.weights import read_weights
from vis_projects.weights.formats import formats_of
from vis_projects.weights.reading import reason

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


class AverageMeter:
    """A class that only its authors have."""

    def __init__(self) -> None:
        self.value = 1.0


class Config(dict):
    """A dict of its own kind, as config libraries have."""


class Runs:
    """Runs a command when a plain unpickler reads it."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def same(path, expected=STATE) -> None:
    found = read_weights(str(path)).state
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "iteration": 3},
        lambda s: {"state_dict": s, "optimizer": {}, "meta": {"epoch": 1}},
        lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: collections.OrderedDict(("module.module." + k, v) for k, v in s.items()),
    ],
)
def test_containers(tmp_path, wrap, legacy) -> None:
    torch.save(wrap(STATE), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    same(tmp_path / "w.pth")
    os.rename(tmp_path / "w.pth", tmp_path / "weights.anything")  # the name says nothing
    same(tmp_path / "weights.anything")


@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_classes_are_stubs_and_the_tensors_remain(tmp_path, legacy) -> None:
    stats = collections.defaultdict(AverageMeter)
    stats["loss"].value = 3.0
    big = torch.arange(20.0)
    data = {
        "model": {**STATE, "view": big[3:9].reshape(2, 3).t(), "half": torch.ones(2).half()},
        "args": argparse.Namespace(lr=1),
        "stats": stats,
        "config": Config(a=Config(b=[1])),
        "evil": Runs(tmp_path / "ran"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.ones(3),
    }
    torch.save(data, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    found = read_weights(str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()
    assert "argparse.Namespace" in found.unread and "posix.system" in found.unread
    for name, value in data["model"].items():
        assert torch.equal(found.state[name], value), name
        assert found.state[name].dtype == value.dtype


def test_pickles_of_detectron2_and_caffe2(tmp_path) -> None:
    arrays = {k: v.numpy() for k, v in STATE.items()}
    blob = {"model": arrays, "__author__": "x", "evil": Runs(tmp_path / "ran")}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(blob, 2))
    same(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()
    blobs = {"blobs": {"conv1_w": np.ones((2, 3)), "conv1_w_momentum": np.ones(1)}}
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps(blobs, 2))
    found = read_weights(str(tmp_path / "c2.pkl"))
    assert found.names == "caffe2" and list(found.state) == ["conv1_w"]


def test_a_pickle_cannot_change_the_functions_that_it_may_call(tmp_path) -> None:
    """BUILD with a state on a known function: refused, and nothing of ours is changed."""
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    (tmp_path / "w.pkl").write_bytes(code)
    with pytest.raises(InputError, match="damaged"):
        read_weights(str(tmp_path / "w.pkl"))


def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path) -> None:
    torch.save({"model": {"a": torch.arange(4.0)}, "x": argparse.Namespace()}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as old:
        entries = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as new:
        for name, data in entries.items():
            new.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(InputError, match=r"bad\.pth: this file is damaged"):
        read_weights(str(tmp_path / "bad.pth"))


def test_safetensors_and_their_card(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "w.safetensors", metadata={"vis_projects": json.dumps({"a": 1})})
    same(tmp_path / "w.safetensors")
    assert read_weights(str(tmp_path / "w.safetensors")).card == {"a": 1}


def no_weights(folder):
    """Files that are no weights: name -> bytes, and what is said of each."""
    torch.save({"model": STATE}, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    torch.save({"model": STATE}, folder / "old.pth", _use_new_zipfile_serialization=False)
    old = (folder / "old.pth").read_bytes()
    with tarfile.open(folder / "t.tar", "w") as tar:
        tar.add(folder / "whole.pth")
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    return {
        "empty.pth": (b"", "this file is empty"),
        "page.pth": (b"\n<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        "page.pkl": (b"<html><head>", "HTML page"),
        "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs"),
        "answer.pth": (b'<?xml version="1.0"?><Error/>', "XML"),
        "json.pth": (b'{"error": "not found"}', "JSON"),
        "text.pth": ("Näher: 404".encode(), "is text"),
        "packed.pth": (gzip.compress(whole), "gzip"),
        "t.pth": ((folder / "t.tar").read_bytes(), "tar archive"),
        "z.pth": ((folder / "z.zip").read_bytes(), "zip archive"),
        "half.pth": (whole[: len(whole) // 2], "damaged or cut off"),
        "half_old.pth": (old[: len(old) - 7], "damaged or cut off"),
        "half_old2.pth": (old[:200], "damaged or cut off"),
        "noise.pkl": (b"\x80\x02\xff\xfe\x00" * 9, "damaged or cut off"),
        "list.pkl": (pickle.dumps([1, 2]), "a list instead of named tensors"),
        "namespace.pkl": (pickle.dumps(argparse.Namespace(a=1)), "argparse.Namespace"),
        "numbers.pkl": (pickle.dumps({"model": {"a": 1}, "__author__": "x"}), "no tensor"),
        "evil.pkl": (pickle.dumps({"model": Runs(folder / "ran"), "__author__": "x"}), "system"),
    }


def test_what_is_no_weights_file_is_called_that(tmp_path) -> None:
    for name, (data, said) in no_weights(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as error:
            read_weights(str(tmp_path / name))
        text = str(error.value)
        assert said in text and name in text, (name, text)
        assert "\n" not in text and "\x1b" not in text
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="no such file"):
        read_weights(str(tmp_path / "nowhere.pth"))
    with pytest.raises(InputError, match="is a folder"):
        read_weights(str(tmp_path))


def test_reasons_are_whole_sentences_without_terminal_codes() -> None:
    error = RuntimeError("Weights only load failed. This file \x1b[1mdo those\x1b[0m. In short: no")
    assert reason(error) == "Weights only load failed"
    assert reason(ValueError("a file of 1.5 GB, e.g. x.pth")) == "a file of 1.5 GB, e.g. x.pth"
    assert reason(EOFError()) == "EOFError"


@contextmanager
def served(folder, monkeypatch):
    """A server of a folder's files on this machine; yields its address and the paths asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    monkeypatch.setenv("FVCORE_CACHE", str(folder / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_urls_with_a_query(tmp_path, monkeypatch) -> None:
    torch.save({"model": STATE}, tmp_path / "w.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    with served(tmp_path, monkeypatch) as (place, _):
        same(f"{place}/w.pth?download=true")
        with pytest.raises(InputError, match=r"cannot be downloaded .*404"):
            read_weights(f"{place}/other.pth?download=true")
        with pytest.raises(InputError, match="HTML page, not weights"):
            read_weights(f"{place}/page.pth?download=true")
    assert read_weights(f"{tmp_path}/w.pth?matching_heuristics=True").names == "ends"


RANK = """
import sys
import torch.distributed as dist
import vis_projects
from detectron2.utils import comm
from vis_projects.structures import InputError
from vis_projects.weights import read_weights

rank, meeting, *places = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
comm.create_local_process_group(2)
for place in places:
    try:
        print(sorted(read_weights(place).state))
    except InputError as error:
        print(error)
dist.destroy_process_group()
"""


def test_of_several_processes_one_downloads(tmp_path, monkeypatch) -> None:
    """All get the file, or all the same line; the server is asked once."""
    torch.save({"model": STATE}, tmp_path / "w.pth")
    (tmp_path / "rank.py").write_text(RANK)
    with served(tmp_path, monkeypatch) as (place, asked):
        command = [sys.executable, str(tmp_path / "rank.py")]
        places = [str(tmp_path / "meeting"), f"{place}/no.pth", f"{place}/w.pth?download=true"]
        ranks = [
            subprocess.Popen([*command, str(k), *places], stdout=subprocess.PIPE, text=True)
            for k in range(2)
        ]
        said = [rank.communicate()[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert asked.count("/w.pth?download=true") == 1
    assert said[0] == said[1] and said[0][1] == str(sorted(STATE))
    assert "no.pth: cannot be downloaded" in said[0][0]


def test_no_layout_takes_another_layouts_keys(monkeypatch) -> None:
    """Every file of the recorded lists is recognised as of one system."""
    monkeypatch.setattr(files, "filled", lambda key, shape, name="": torch.empty(tuple(shape)))
    states = {
        "cfbi": [files.cfbi(), files.deeplab()],
        "crossvis": [files.crossvis(), files.condinst()],
        "frtm": [files.frtm(18), files.frtm(101)],
        "seq_mask_rcnn": [{k: v for k, v, _, _ in files.propose_reduce()}],
        "swin": [files.swin_backbone(), files.swin_detector()[0]],
    }
    for system, found in states.items():
        for state in found:
            assert {f.system for f in formats_of(state.keys())} == {system}
