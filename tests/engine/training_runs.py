"""Trainings in processes of their own, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("tiny_system.py")
ROOT = SCRIPT.parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_script(*arguments: object, **options) -> subprocess.CompletedProcess:
    env = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, **options)


def checkpoint(folder: Path, name: str = "model_final.pth") -> dict:
    """What a training left, without the card, which holds the config."""
    data = torch.load(folder / name, weights_only=True)
    data.pop("vis_projects")
    return data
