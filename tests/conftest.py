"""Fixtures shared by all tests: recorded numbers, filled weights, one thread."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch

import vis_projects  # noqa: F401  (sees to a provider of detectron2)

# Tests that use one of these compare figures: marked numeric.
NUMERIC = {"golden", "float64"}
LITE = "lite" in detectron2.__version__
OWN_GOLDENS = Path(__file__).parent / "goldens"
# Another recording of the same layout: VIS_GOLDENS=DIR pytest. What it lacks is skipped.
GOLDENS = Path(os.environ.get("VIS_GOLDENS") or OWN_GOLDENS)


def _load_fill() -> None:
    """Make ``import fill`` work; the folder itself must not be on the path (``detectron2/``)."""
    file = GOLDENS / "fill.py" if (GOLDENS / "fill.py").exists() else OWN_GOLDENS / "fill.py"
    spec = importlib.util.spec_from_file_location("fill", file)
    sys.modules["fill"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fill"])


_load_fill()

# Small tensors: a second thread costs more than it gives, and processes share the cores.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


@pytest.fixture
def float64():
    """Two ways to compute the same are compared where rounding cannot hide or fake a difference:
    float32 sums in another order on every processor."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if NUMERIC & set(item.fixturenames):
            item.add_marker(pytest.mark.numeric)
        if "lite" in item.keywords and not LITE:
            item.add_marker(pytest.mark.skip(reason="official Detectron2 is the provider"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def golden_path(name: str) -> Path:
    """Return the recorded file of a name such as ``"frtm/merge.npz"``."""
    file = GOLDENS / name
    if not file.exists() and GOLDENS != OWN_GOLDENS:
        pytest.skip(f"{file} is not among the recordings of VIS_GOLDENS")
    assert file.exists(), f"{file} is missing: copy it from the project's recorded figures"
    return file


@pytest.fixture(scope="session")
def golden():
    """Return a function from a name such as ``"frtm/merge.npz"`` to the recorded file's path."""
    return golden_path


@pytest.fixture(scope="session")
def recording():
    """Return a function from the name of a recorded file to what it was recorded with.

    ``recording.json`` holds what the files themselves do not: seeds, names, sizes of the inputs.
    """
    file = GOLDENS / "recording.json"
    settings = json.loads((file if file.exists() else OWN_GOLDENS / "recording.json").read_text())
    return lambda name: settings[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``@pytest.mark.recorded_cases(name, file, pattern)``: one case for every recorded name.

    The cases are the different first groups of the pattern among the keys of the file.
    """
    for mark in metafunc.definition.iter_markers("recorded_cases"):
        argument, name, pattern = mark.args
        file = GOLDENS / name
        keys = np.load(file).files if file.exists() else []
        found = [m for m in (re.fullmatch(pattern, key) for key in keys) if m]
        metafunc.parametrize(argument, list(dict.fromkeys(m.group(1) for m in found)))


@pytest.fixture(scope="session")
def davis_root() -> Path:
    """The DAVIS tree below $DETECTRON2_DATASETS; tests that need real video are skipped without."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "DAVIS"
    if not (root / "JPEGImages" / "480p").is_dir():
        pytest.skip("real video: set DETECTRON2_DATASETS to a folder that holds DAVIS")
    return root


def _loggers_restored() -> Iterator[None]:
    """Commands that run in the test's process set up loggers on streams that end with the test."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "vis_projects")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagate


loggers_of_a_test = pytest.fixture(autouse=True)(_loggers_restored)
loggers_of_a_module = pytest.fixture(autouse=True, scope="module")(_loggers_restored)
