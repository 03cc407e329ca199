"""``report.html``: made of a run's files by the commands that users type, readable, one file."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browsing import BROWSER, DRIVER, browsers, misfits
from PIL import Image

from vis_projects.cli import run_script
from vis_projects.engine.curves import draw_curves, panels_of, plot_curves
from vis_projects.report.page import Clip, Section, write_page
from vis_projects.report.quality import chosen_videos

browser = pytest.fixture(browsers)


class Page(HTMLParser):
    """Collects what a page shows and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def read(file: Path) -> Page:
    text = file.read_text()
    assert len(text) < 10e6
    page = Page(text)
    outside = [a for a in page.addresses if not a.startswith(("data:", "#"))]
    assert not outside, f"the page fetches {outside[:3]}"
    assert "url(http" not in text
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two evaluations without training, of masks and of tracks."""
    folder = tmp_path_factory.mktemp("runs")
    given = ["DATASETS.TEST", "('synthetic_vos_val:videos=3:length=4',)"]
    argv = ["--config-file", "configs/copy_first/davis2016.yaml", "--num-gpus", "0", *given]
    assert run_script("eval", [*argv, "OUTPUT_DIR", str(folder / "vos")], prog="vis eval") == 0
    tracks = [
        *("--config-file", "configs/quickstart.yaml", "--num-gpus", "0"),
        *("DATASETS.TEST", "('synthetic_val:videos=3:length=4',)"),
        *("MODEL.ALLOW_MISSING_WEIGHTS", "True", "MODEL.FCOS.INFERENCE_TH_TEST", "0.01"),
        *("MODEL.CROSSVIS.TRACKER.MAX_TRACKS", "20", "TEST.BOOTSTRAP", "20"),
    ]
    assert run_script("eval", [*tracks, "OUTPUT_DIR", str(folder / "vis")], prog="vis eval") == 0
    return folder


def test_the_path_is_the_last_line_of_the_log(runs: Path) -> None:
    last = (runs / "vis" / "log.txt").read_text().strip().splitlines()[-1]
    assert last.endswith(f"Report: {runs / 'vis' / 'report.html'}")


def test_a_report_of_tracks(runs: Path) -> None:
    page = read(runs / "vis" / "report.html")
    words = " ".join(page.words)
    scores = json.loads((runs / "vis" / "scores.json").read_text())
    (scores,) = scores.values()
    assert f"{scores['segm']['AP']:.1f}" in words
    for title in ("Scores", "What differs", "Data", "Accuracy and errors", "Videos"):
        assert title in page.words
    assert "MODEL.FCOS.INFERENCE_TH_TEST" in words
    assert "MODEL.META_ARCHITECTURE" not in words  # as in the base config
    assert page.tags.count("video") in (2, 3)
    assert page.tags.count("svg") >= 3
    for kind in ("class", "spatial", "temporal", "duplicate", "switch", "background", "missed"):
        assert kind in page.words


def test_a_report_of_masks(runs: Path) -> None:
    page = read(runs / "vos" / "report.html")
    assert "Sequences" in page.words
    assert any(word.startswith("worst: ") for word in page.words)


def test_a_comparison_names_what_differs(runs: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "c.html"
    argv = [str(runs / "vis"), str(runs / "vos"), "--output", str(file)]
    assert run_script("report", argv, prog="vis report") == 0
    words = read(file).words
    assert "vis against vos" in words
    assert "MODEL.META_ARCHITECTURE" in words and "CrossVIS" in words and "CopyFirst" in words
    assert run_script("report", [str(tmp_path)], prog="vis report") == 2
    assert "no config.yaml" in capsys.readouterr().err


def test_runs_of_another_package_are_read_without_it(runs: Path, tmp_path: Path, capsys) -> None:
    """Nothing is built: names that only ``--import`` registers are shown."""
    other, page = tmp_path / "other", tmp_path / "pages" / "one.html"
    page.parent.mkdir()
    shutil.copytree(runs / "vis", other)
    text = (other / "config.yaml").read_text()
    assert text.count("NAME: pair") == 1
    (other / "config.yaml").write_text(text.replace("NAME: pair", "NAME: distant_pair"))
    argv = [str(runs / "vis"), str(other), "--output", str(tmp_path / "two.html")]
    assert run_script("report", argv, prog="vis report") == 0
    assert "distant_pair" in read(tmp_path / "two.html").words
    text = (other / "config.yaml").read_text()
    text = text.replace("META_ARCHITECTURE: CrossVIS", "META_ARCHITECTURE: Theirs")
    (other / "config.yaml").write_text(text)
    assert run_script("report", [str(other), "--output", str(page)], prog="vis report") == 0
    assert capsys.readouterr().out.strip().endswith(str(page))
    assert "Theirs: other" in read(page).words


@pytest.mark.skipif(DRIVER is None or BROWSER is None, reason="no browser")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_everything_fits_into_the_window(runs: Path, tmp_path: Path, browser, width: int) -> None:
    compared = tmp_path / "c.html"
    argv = [str(runs / "vis"), str(runs / "vos"), "--output", str(compared)]
    assert run_script("report", argv, prog="vis report") == 0
    for page in (runs / "vis" / "report.html", runs / "vos" / "report.html", compared):
        assert misfits(browser, page, width) == {}, page


def test_a_report_can_be_left_out(tmp_path: Path) -> None:
    argv = [
        *("--config-file", "configs/copy_first/davis2016.yaml", "--num-gpus", "0"),
        *("DATASETS.TEST", "('synthetic_vos_val:videos=1:length=2',)"),
        *("TEST.REPORT", "False", "OUTPUT_DIR", str(tmp_path)),
    ]
    assert run_script("eval", argv, prog="vis eval") == 0
    assert not (tmp_path / "report.html").exists()


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    section = Section("<b>x</b>", "a & b", clips=[Clip("data:,", '"><script>')])
    text = write_page(tmp_path / "r.html", "<i>", "", [section]).read_text()
    assert "<script>" not in text and "<b>x" not in text and "<title>&lt;i&gt;" in text


def test_a_page_stays_below_its_size(tmp_path: Path) -> None:
    clips = [Clip("data:," + "x" * size, str(size)) for size in (8_000_000, 3_000_000, 10)]
    text = write_page(tmp_path / "r.html", "t", "", [Section("v", clips=clips)]).read_text()
    assert len(text) < 10e6
    assert len(re.findall("<video", text)) == 2


def test_best_median_and_worst() -> None:
    assert chosen_videos({1: 0.5, 2: 0.9, 3: 0.1}) == {"best": 2, "median": 1, "worst": 3}
    assert chosen_videos({1: 0.5, 2: 0.9}) == {"best": 2, "worst": 1}
    assert chosen_videos({1: 0.5}) == {"best": 1}
    assert chosen_videos({}) == {}


ROWS = [
    {"iteration": 0, "total_loss": 3.0, "loss_mask": 1.0, "lr": 0.1, "time": 1.0},
    {"iteration": 9, "total_loss": 2.0, "loss_mask": 0.5, "lr": 0.2, "grad_norm": 4.0},
    {
        "iteration": 10,
        "segm/AP": 30.0,
        "segm/AP_low": 25.0,
        "segm/AP_high": 36.0,
        "segm/IDSW": 22.0,
        "segm/AR10": 50.0,
        "segm/APm": float("nan"),
        "segm/AP-cat": 10.0,
    },
]


def test_curves_show_what_decides() -> None:
    panels = panels_of(ROWS)
    assert set(panels["score (%)"]) == {"AP", "AP (95 %)"}
    assert set(panels["loss"]) == {"total_loss", "loss_mask"}
    assert "time" not in str(panels.keys()) and set(panels["gradient norm"]) == {"grad_norm"}


@pytest.mark.parametrize("rows", [ROWS, [*ROWS, {"iteration": 20, "segm/AP": 40.0}], ROWS[:2]])
def test_curves_are_drawn(tmp_path: Path, rows: list) -> None:
    plot_curves(rows, tmp_path / "c.png")
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("L"))
    assert picture.std() > 10


def test_a_single_row_is_seen() -> None:
    """A line through one point draws nothing."""
    losses = draw_curves(ROWS[:1]).axes[0]
    assert len(losses.lines) == 2 and all(line.get_marker() == "o" for line in losses.lines)
    losses.figure.draw_without_rendering()
    assert all(tick == round(tick) for tick in losses.get_xticks())


def test_three_panels_leave_no_blank_and_numbers_are_plain() -> None:
    rows = [
        {"iteration": k, "total_loss": 8.0 / k, "loss_a": 0.02, "lr": 0.1, "grad_norm": 6.5 - k}
        for k in (1, 2, 3, 4)
    ]
    figure = draw_curves(rows)
    figure.draw_without_rendering()
    places = [axes.get_position() for axes in figure.axes]
    assert len(places) == 3 and places[0].width > 1.9 * places[1].width
    for axes in figure.axes:
        for label in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)):
            assert "10^" not in label.get_text() and "e" not in label.get_text()
    assert "0.01" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_no_rows_no_picture(tmp_path: Path) -> None:
    plot_curves([], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
