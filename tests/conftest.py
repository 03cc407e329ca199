"""Fixtures shared by all tests: recorded numbers, filled weights, one thread."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import detectron2
import pytest
import torch

import vis_projects  # noqa: F401  (sees to a provider of detectron2)

LITE = "lite" in detectron2.__version__
GOLDENS = Path(__file__).parent / "goldens"


def _load_fill() -> None:
    """Make ``import fill`` work; the folder itself must not be on the path (``detectron2/``)."""
    spec = importlib.util.spec_from_file_location("fill", GOLDENS / "fill.py")
    sys.modules["fill"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fill"])


_load_fill()

# Small tensors: a second thread costs more than it gives, and processes share the cores.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "lite" in item.keywords and not LITE:
            item.add_marker(pytest.mark.skip(reason="official Detectron2 is the provider"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture
def golden():
    """Return a function from a name such as ``"frtm/merge.npz"`` to the recorded file's path."""

    def path(name: str) -> Path:
        file = GOLDENS / name
        assert file.exists(), f"{file} is missing: copy it from the project's recorded figures"
        return file

    return path


@pytest.fixture(scope="session")
def davis_root() -> Path:
    """The DAVIS tree below $DETECTRON2_DATASETS; tests that need real video are skipped without."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "DAVIS"
    if not (root / "JPEGImages" / "480p").is_dir():
        pytest.skip("real video: set DETECTRON2_DATASETS to a folder that holds DAVIS")
    return root
