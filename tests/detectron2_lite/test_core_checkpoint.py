"""Checkpoints: layout, what loads into what, and that nothing in a file is ever run."""

from __future__ import annotations

import io
import logging
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.a = nn.Linear(2, width)
        self.b = nn.Linear(width, 1)


def filled(value, width=3):
    net = Net(width)
    for p in net.parameters():
        nn.init.constant_(p, value)
    return net


def value_of(net):
    values = {v for p in net.state_dict().values() for v in p.flatten().tolist()}
    assert len(values) == 1, values
    return values.pop()


def test_save_and_resume(tmp_path):
    net, head = filled(1.0), nn.Linear(1, 1)
    saver = DetectionCheckpointer(net, str(tmp_path), head=head)
    saver.save("model_0000004", iteration=4)
    content = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    assert set(content) == {"model", "head", "iteration"} and content["iteration"] == 4
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"

    other, other_head = filled(0.0), nn.Linear(1, 1)
    loader = DetectionCheckpointer(other, str(tmp_path), head=other_head)
    assert loader.has_checkpoint()
    assert loader.resume_or_load("", resume=True) == {"iteration": 4}
    assert value_of(other) == 1.0 and torch.equal(other_head.weight, head.weight)

    fresh, fresh_head = filled(0.0), nn.Linear(1, 1)
    before = fresh_head.weight.clone()
    path = str(tmp_path / "model_0000004.pth")
    loader = DetectionCheckpointer(fresh, str(tmp_path / "none"), head=fresh_head)
    loader.resume_or_load(path, resume=True)  # nothing to resume: the model alone
    assert value_of(fresh) == 1.0 and torch.equal(fresh_head.weight, before)
    assert loader.load("") == {}

    DetectionCheckpointer(net, str(tmp_path / "quiet"), save_to_disk=False).save("x")
    assert not (tmp_path / "quiet").exists()


def test_raw_state_dict_prefix_and_shapes(tmp_path, caplog):
    state = {f"module.{k}": v for k, v in filled(2.0).state_dict().items()}
    torch.save(state, tmp_path / "raw.pth")
    net = filled(0.0)
    DetectionCheckpointer(net).load(str(tmp_path / "raw.pth"))
    assert value_of(net) == 2.0

    torch.save({"model": {**filled(3.0, 4).state_dict(), "odd": torch.ones(1)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(net).load(str(tmp_path / "w.pth"))
    text = caplog.text
    assert "a.weight" in text and "(4, 2)" in text and "odd" in text
    assert (net.a.weight == 2).all() and (net.b.bias == 3).all()  # wrong shapes are skipped


@pytest.mark.lite
def test_model_zoo_pickle(tmp_path):
    arrays = {k: v.numpy() for k, v in filled(5.0).state_dict().items()}
    path = tmp_path / "zoo.pkl"
    for protocol in range(5):
        with open(path, "wb") as f:
            pickle.dump({"model": arrays, "__author__": "someone"}, f, protocol=protocol)
        net = filled(0.0)
        extra = DetectionCheckpointer(net).load(str(path))
        assert value_of(net) == 5.0 and extra["__author__"] == "someone"
    # written by an older NumPy under Python 2: other module names, arrays as text
    old = pickle.dumps({"model": arrays, "__author__": "x"}, protocol=2)
    old = old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(old)
    net = filled(0.0)
    DetectionCheckpointer(net).load(str(path))
    assert value_of(net) == 5.0


@pytest.mark.lite
def test_queries_and_missing_files(tmp_path):
    torch.save(filled(1.0).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="unknown query.*strict"):
        DetectionCheckpointer(Net()).load(f"{tmp_path}/a.pth?strict=True")
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        DetectionCheckpointer(Net()).load(f"{tmp_path}/nothing.pth")
    for name in ("cut.pth", "cut.pkl", "empty.pth", "empty.pkl"):
        content = (tmp_path / "a.pth").read_bytes()[:300] if name.startswith("cut") else b""
        (tmp_path / name).write_bytes(content)
        with pytest.raises((RuntimeError, pickle.UnpicklingError), match=name) as caught:
            DetectionCheckpointer(Net()).load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_matching_heuristics(tmp_path):
    inner = filled(4.0).state_dict()
    torch.save(inner, tmp_path / "inner.pth")
    outer = nn.ModuleDict({"deep": nn.ModuleDict({"net": filled(0.0)})})
    DetectionCheckpointer(outer).load(f"{tmp_path}/inner.pth?matching_heuristics=True")
    assert value_of(outer) == 4.0
    torch.save({"model_state": inner}, tmp_path / "inner.pyth")
    outer = nn.ModuleDict({"deep": nn.ModuleDict({"net": filled(0.0)})})
    DetectionCheckpointer(outer).load(f"{tmp_path}/inner.pyth")
    assert value_of(outer) == 4.0


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.fixture(params=["os.mkdir", "eval", "builtins.getattr", "numpy"])
def attack(request, tmp_path):
    flag = str(tmp_path / "ran")
    return {
        "os.mkdir": Attack(os.mkdir, flag),
        "eval": Attack(eval, f"__import__('os').mkdir({flag!r})"),
        "builtins.getattr": Attack(getattr, "text", "upper"),
        # a numpy function that is not among those for arrays
        "numpy": Attack(np.save, flag, np.zeros(1)),
    }[request.param]


@pytest.mark.lite
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
def test_code_in_a_file_is_refused(attack, protocol, suffix, tmp_path):
    path = tmp_path / f"bad{suffix}"
    content = {"model": {"a.weight": attack}, "__author__": "x", "blobs": attack}
    with open(path, "wb") as f:
        if suffix == ".pkl":
            pickle.dump(content, f, protocol=protocol)
        else:
            torch.save(content, f, pickle_protocol=max(protocol, 2))
    with pytest.raises(pickle.UnpicklingError, match=rf"bad\{suffix} is refused") as caught:
        DetectionCheckpointer(Net()).load(str(path))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert not (tmp_path / "ran").exists() and not (tmp_path / "ran.npy").exists()


@pytest.mark.lite
def test_plain_pickle_named_pth_is_refused(tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps({"model": Attack(os.mkdir, str(tmp_path / "ran"))}))
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match=r"old\.pth"):
        DetectionCheckpointer(Net()).load(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.lite
def test_torch_zip_named_pkl_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"model": {}}, buffer)
    path = tmp_path / "zip.pkl"
    path.write_bytes(buffer.getvalue())
    assert zipfile.is_zipfile(path)
    with pytest.raises(pickle.UnpicklingError, match=r"zip\.pkl"):
        DetectionCheckpointer(Net()).load(str(path))
