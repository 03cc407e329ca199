"""The authors' CFBI file through the command a user types, against what the authors' code wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import official_files as files
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/goldens/paths/cfbi"


def tree(folder: Path, sequences: list[str]) -> Path:
    """A DAVIS tree of some of the golden's sequences, linked."""
    root = folder / "DAVIS"
    for part in ("JPEGImages", "Annotations"):
        (root / part).mkdir(parents=True)
        (root / part / "480p").symlink_to(GOLDEN / "davis/DAVIS" / part / "480p")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("\n".join(sequences) + "\n")
    return folder


def evaluated(tmp_path: Path, weights: Path, sequences: list[str]) -> Path:
    options = {"MODEL.WEIGHTS": weights, "DATASETS.TEST": "('davis_2017_val',)",
               "OUTPUT_DIR": tmp_path / "out"}  # fmt: skip
    command = [
        *(sys.executable, "train_net.py", "--num-gpus", "0", "--eval-only"),
        *("--config-file", "configs/cfbi/R101_davis2017.yaml"),
        *(str(x) for pair in options.items() for x in pair),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1",
           "DETECTRON2_DATASETS": str(tree(tmp_path / "data", sequences))}  # fmt: skip
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "753 of 753 trained tensors given" in done.stdout
    return tmp_path / "out/inference/davis_2017_val/results"


def assert_equal(results: Path, sequences: list[str]) -> None:
    for sequence in sequences:
        expected = sorted((GOLDEN / "expected" / sequence).glob("*.png"))
        assert len(expected) > 4
        for file in expected:
            theirs = np.asarray(Image.open(file))
            ours = np.asarray(Image.open(results / sequence / file.name))
            equal = (ours == theirs).mean()
            assert equal >= 0.999, f"{sequence}/{file.name}: {100 * equal:.2f} % of the pixels"


def test_one_sequence_with_the_file_as_released(tmp_path) -> None:
    state = {f"module.{k}": v for k, v in files.cfbi().items()}
    torch.save({"state_dict": state, "optimizer": {}}, tmp_path / "resnet101_cfbi.pth")
    assert_equal(evaluated(tmp_path, tmp_path / "resnet101_cfbi.pth", ["solo"]), ["solo"])


@pytest.mark.slow
def test_all_sequences_with_the_converted_file(tmp_path) -> None:
    torch.save({"state_dict": files.cfbi(), "optimizer": {}}, tmp_path / "official.pth")
    command = [sys.executable, "tools/convert_weights.py", "cfbi", str(tmp_path / "official.pth"),
               str(tmp_path / "cfbi.pth")]  # fmt: skip
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    names = ["bear", "solo", "void"]
    assert_equal(evaluated(tmp_path, tmp_path / "cfbi.pth", names), names)
