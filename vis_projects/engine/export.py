"""The per-frame networks of a system as files for ONNX Runtime or ``torch.export``.

What decides (linking, memories, clustering) stays here; the files hold the networks, which take
normalised images and give the maps that those decisions read.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..modeling.exported_network import ExportedNetwork
from ..structures import InputError
from ..weights import build_for_test

logger = logging.getLogger(__name__)

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-4  # of an output's largest value, between a file and the network it came from


def export_model(
    cfg: CfgNode, output: str | Path, *, size: tuple[int, int], kind: str = "onnx"
) -> list[Path]:
    """Write the per-frame networks of a config's system and check what was written.

    Beside each file lies a JSON with names and shapes of inputs and outputs, and what an image
    needs first (mean, deviation, channel order).

    Args:
        cfg: with MODEL.WEIGHTS.
        output: the file; a system with several networks puts their names before the suffix.
        size: (H, W) of the network's input; a padded size for networks with strides.
        kind: "onnx" or "pt2".

    Returns:
        The files.

    Raises:
        InputError: a system without such networks, a size that does not fit, a missing package.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r}: use {' or '.join(FORMATS)}")
    if kind == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.INFERENCE_DTYPE = "cpu", "float32"
    model, _ = build_for_test(cfg)
    make = getattr(model, "exported_networks", None)
    if make is None:
        raise InputError(f"{type(model).__name__} has no per-frame networks to export")
    files = []
    for network in make(size):
        file = Path(output).with_suffix(f".{kind}")
        if network.name:
            file = file.with_name(f"{file.stem}_{network.name}{file.suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(network, file, kind)
        _check(network, file, kind)
        file.with_suffix(".json").write_text(json.dumps(_card(cfg, model, network), indent=1))
        files.append(file)
        logger.info("%s: %s", file, ", ".join(network.outputs))
    return files


def _need(*packages: str) -> None:
    import importlib.util

    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise InputError(
            f"format onnx needs {', '.join(missing)}: pip install 'vis_projects[export]' "
            f"(or pip install {' '.join(missing)})"
        )


@torch.no_grad()
def _write(network: ExportedNetwork, file: Path, kind: str) -> None:
    from torch.export import Dim, export

    dims = {name: Dim(name, min=1, max=1024) for name in set(network.dynamic.values())}
    # A dimension of one would be taken for a constant: examples that vary are doubled.
    inputs = [
        torch.cat([x, x]) if name in network.dynamic and len(x) == 1 else x
        for name, x in network.inputs.items()
    ]
    shapes = [
        {0: dims[network.dynamic[name]]} if name in network.dynamic else None
        for name in network.inputs
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export(
            network.module, tuple(inputs), dynamic_shapes=(tuple(shapes),), strict=False
        )
        if kind == "pt2":
            torch.export.save(program, file)
            return
        torch.onnx.export(
            program,
            (),
            str(file),
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def _check(network: ExportedNetwork, file: Path, kind: str) -> None:
    """Run the file on the examples.

    Raises:
        RuntimeError: it does not give what the network gives.
    """
    wanted = network.module(*network.inputs.values())
    for name, a, b in zip(network.outputs, run_file(file, network.inputs, kind), wanted):
        apart = (torch.as_tensor(a) - b).abs().max() / b.abs().max().clamp(min=1e-6)
        if not apart <= TOLERANCE:
            raise RuntimeError(f"{file}: output {name} is {apart:.1e} off the network's")


def run_file(file: Path, inputs: Any, kind: str) -> Sequence[Any]:
    """Run an exported file on inputs by name; returns the outputs in order."""
    if kind == "pt2":
        return torch.export.load(file).module()(*inputs.values())
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.numpy() for name, x in inputs.items()})


def _card(cfg: CfgNode, model: Any, network: ExportedNetwork) -> dict[str, Any]:
    with torch.no_grad():
        outputs = network.module(*network.inputs.values())
    card: dict[str, Any] = {
        "system": type(model).__name__,
        "inputs": {name: list(x.shape) for name, x in network.inputs.items()},
        "outputs": {name: list(x.shape) for name, x in zip(network.outputs, outputs)},
        "varies": dict(network.dynamic),
        "image": "x = (image - mean) / std, float32 (3, H, W), padded with zeros",
        "frames": cfg.INPUT.FORMAT,
    }
    preprocess = getattr(model, "preprocess", None)
    if preprocess is not None and hasattr(preprocess, "pixel_mean"):
        flip = preprocess.flip_colours
        card["channels"] = cfg.INPUT.FORMAT[::-1] if flip else cfg.INPUT.FORMAT
        card["mean"] = preprocess.pixel_mean.flatten().tolist()
        card["std"] = preprocess.pixel_std.flatten().tolist()
    return card
