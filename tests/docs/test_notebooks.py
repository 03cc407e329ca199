"""The notebooks run from top to bottom on small videos, and are kept without outputs."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
# Notebook -> what is changed to make it small, and the files that it leaves.
SMALL = {
    "own_video": ({r'DEVICE = "auto"': 'DEVICE = "cpu"'}, ["own_video_overlay.mp4"]),
    "evaluate_and_report": (
        {"videos=5:length=10": "videos=2:length=4"},
        ["comparison.html", "out/matcher/report.html"],
    ),
}


def _text(file: Path) -> str:
    cells = json.loads(file.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_there_are_two_and_the_site_links_them() -> None:
    assert {file.stem for file in NOTEBOOKS} == set(SMALL)
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for file in NOTEBOOKS:
        assert f"(notebooks/{file.name})" in pages


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stripped(file: Path) -> None:
    for cell in json.loads(file.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert file.stat().st_size < 20_000


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="requirements-dev.txt is not installed")
    nbformat = pytest.importorskip("nbformat", reason="requirements-dev.txt is not installed")
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for image in moving_boxes((320, 480), 2, frames=4)[0]:
            writer.add(image)
    book = nbformat.read(file, as_version=4)
    changes, left = SMALL[file.stem]
    for before, after in changes.items():
        assert before in _text(file)
        for cell in book.cells:
            cell["source"] = cell["source"].replace(before, after)
    # The kernel of this interpreter, whatever kernels the machine has.
    client = nbclient.NotebookClient(
        book, timeout=None, resources={"metadata": {"path": str(tmp_path)}}
    )
    manager = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable
    # Pictures are shown where nothing has chosen another backend of matplotlib.
    here = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    client.execute(env={**here, "OMP_NUM_THREADS": "1"})
    for name in left:
        assert (tmp_path / name).stat().st_size
    shown = [o for cell in book.cells for o in cell.get("outputs", []) if "data" in o]
    assert any(re.match(r"image/png|text/html", kind) for o in shown for kind in o["data"])
