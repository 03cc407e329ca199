"""The network with filled weights against the recorded clip."""

from __future__ import annotations

import math

import fill
import numpy as np
import torch

from vis_projects.cfbi.attention import instance_attention
from vis_projects.cfbi.network import CFBINetwork, plane_masks, probabilities

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def image(frame: np.ndarray) -> torch.Tensor:
    """An RGB frame as the official code sees it: BGR, RGB statistics."""
    x = (frame[..., ::-1].astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None]


def test_parameters(filled_network: CFBINetwork) -> None:
    count = sum(p.numel() for p in filled_network.parameters())
    assert round(count / 1e4) == 6605  # 66.05 M


def test_instance_attention(golden, recording) -> None:
    data = np.load(golden("cfbi/instance_attention.npz"))

    def pair(name: str, label: str) -> tuple[torch.Tensor, torch.Tensor]:
        h, w = data[label].shape
        width = recording("cfbi/instance_attention.npz")["width"]
        values = fill.values(f"cfbi.a.att.{name}", (h, w, width)) * math.sqrt(w * width) * 0.08
        masks = plane_masks(torch.from_numpy(data[label]), len(data["one_ref"]))
        return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1), masks

    first, second = pair("ref0", "label_ref0"), pair("ref1", "label_ref1")
    previous = pair("prev", "label_prev")
    for references, name in (([first], "one_ref"), ([first, second], "two_refs")):
        found = instance_attention(references, previous).numpy()
        assert np.abs(found - data[name]).max() <= 2e-6


@torch.no_grad()
def test_recorded_clip(filled_network: CFBINetwork, golden, recording) -> None:
    data = np.load(golden("cfbi/network_clip.npz"))
    size, length = data["label_0"].shape, sum(key.startswith("label_") for key in data.files)
    (late,) = (int(key.split("_")[-1]) for key in data.files if key.startswith("new_mask_"))
    frames = fill.frames(recording("cfbi/network_clip.npz")["seed"], length, *size)
    labels = [torch.from_numpy(data[f"label_{t}"].astype(np.int64)) for t in range(length)]
    embedded = [filled_network.embed(image(f))[0] for f in frames]
    assert np.abs(embedded[0].embedding[:8].numpy() - data["embedding_0_ch0_8"]).max() <= 1e-4
    references = [(embedded[0], labels[0])]
    for t in range(1, length):
        objects = len(data[f"prob_{t}"])  # with the background
        previous = (embedded[t - 1], labels[t - 1])
        logits = filled_network(embedded[t], references, previous, objects)
        prob = probabilities(logits, size).numpy()
        assert np.abs(prob - data[f"prob_{t}"]).max() <= 2e-4
        if f"logits_{t}" in data:
            assert np.abs(logits.numpy() - data[f"logits_{t}"]).max() <= 1e-3
            pixels = filled_network.collect(references, objects)
            maps = filled_network.prehead_input(embedded[t], pixels, previous, objects).numpy()
            assert np.abs(maps - data[f"prehead_in_{t}"]).max() <= 2e-4
        found = prob.argmax(0)
        if t == late:
            found[data[f"new_mask_{late}"] > 0] = objects
        best = np.sort(data[f"prob_{t}"], 0)
        clear = best[-1] - best[-2] > 1e-3
        assert np.array_equal(found[clear], data[f"label_{t}"][clear])
        if t == late:
            references.append((embedded[t], labels[t]))
