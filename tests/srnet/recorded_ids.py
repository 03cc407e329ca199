"""Ids of a frame after Algorithm 1, as the recordings give them."""

from __future__ import annotations

import numpy as np
import torch


def id_map(output) -> np.ndarray:
    ids = torch.cat([output.detections.ids, torch.zeros(1, dtype=torch.int64)])
    return ids[output.clusters.labels].numpy()


def ids_of(output) -> list[int]:
    return output.detections.ids[output.detections.present].tolist()
