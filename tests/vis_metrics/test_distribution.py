"""The distribution: found from the repository's root, light to start, old names forwarded."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import vis_metrics

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "detectron2", "vis_projects", "fvcore"}  # lite has a .pth hook


def imports_of(*arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_the_folder_in_the_root_does_not_shadow_the_package():
    code = "import vis_metrics; print(vis_metrics.__file__); vis_metrics.evaluate_davis"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert Path(done.stdout.strip()).name == "__init__.py"


@pytest.mark.parametrize("command", ["davis", "ytvis", "ytvos"])
def test_start_is_light(command):
    started = imports_of("-m", "vis_metrics", command, "--help")
    assert not started & HEAVY


def test_every_public_name_exists():

    for name in vis_metrics.__all__:
        assert getattr(vis_metrics, name) is not None
    with pytest.raises(AttributeError):
        _ = vis_metrics.nothing


def test_old_names_forward_with_one_line():
    import vis_metrics.davis
    from vis_projects import evaluation

    sys.modules.pop("vis_projects.evaluation.davis", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from vis_projects.evaluation.davis import evaluate_davis as old

        assert evaluation.evaluate_ytvis is vis_metrics.evaluate_ytvis
    assert old is vis_metrics.davis.evaluate_davis
    texts = [str(w.message) for w in caught if issubclass(w.category, FutureWarning)]
    assert len(texts) == 2 and "vis_metrics.davis" in texts[0]
    assert all(Path(w.filename) == Path(__file__) for w in caught)
    with pytest.raises(AttributeError):
        _ = evaluation.nothing
    with pytest.raises(ImportError):
        import vis_projects.evaluation.nothing  # noqa: F401


def test_the_scorer_loads_what_it_needs(golden, tmp_path):
    assert not imports_of("-m", "vis_metrics", "--help") & {"numpy", "cv2", "scipy", "pycocotools"}
    maps = np.zeros((3, 9, 9), np.uint8)
    for folder in ("gt", "own"):
        vis_metrics.write_sequence(tmp_path / folder / "v", maps, ["00000", "00005", "00010"])
    places = ["--ground-truth", str(tmp_path / "gt"), "--results", str(tmp_path / "own")]
    davis = imports_of("-m", "vis_metrics", "davis", "--protocol", "2016", *places)
    assert not davis & ({"scipy", "pycocotools", "tqdm", "PIL"} | HEAVY)
    truth, own = golden("metrics/ytvis_gt.json"), golden("metrics/ytvis_pred_medium.json")
    ytvis = imports_of("-m", "vis_metrics", "ytvis", "--ground-truth", truth, "--results", own)
    assert not ytvis & ({"scipy", "cv2", "tqdm", "PIL"} | HEAVY)
    objects = {"1": {"category": "cat", "frames": ["00000", "00005"]}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    ytvos = imports_of("-m", "vis_metrics", "ytvos", *places, "--meta", str(tmp_path / "meta.json"))
    assert not ytvos & HEAVY
    unsup = imports_of("-m", "vis_metrics", "davis", "--protocol", "unsup", *places)
    assert not unsup & HEAVY


def test_its_absence_is_one_clear_line() -> None:
    """``setup.py`` does not declare it, since it is on no index."""
    code = "import sys; sys.modules['vis_metrics'] = None; import vis_projects"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: vis_projects needs vis_metrics")
    assert last.endswith("pip install ./vis_metrics")
