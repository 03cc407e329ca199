"""Several runs on one page: their scores, what differs between them, their curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..engine.curves import MAIN_SCORES, panels_of
from ..structures import InputError
from . import charts
from .page import Drawing, Section, Table, write_page
from .run_folder import RunFolder, config_changes
from .run_report import number


def write_comparison(folders: Sequence[str | Path], file: str | Path) -> Path:
    """Write a page that compares runs.

    Raises:
        InputError: fewer than two runs, or a folder without one.
    """
    runs = [RunFolder(folder) for folder in folders]
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    names = _names(runs)
    sections = [_scores(runs, names), _curves(runs, names), _changes(runs, names)]
    subtitle = " · ".join(str(run.folder) for run in runs)
    return write_page(Path(file), " against ".join(names), subtitle, sections)


def _names(runs: Sequence[RunFolder]) -> list[str]:
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _scores(runs: Sequence[RunFolder], names: Sequence[str]) -> Section:
    tables = []
    for name in dict.fromkeys(test.name for run in runs for test in run.sets):
        scores = [next((t.scores for t in run.sets if t.name == name), {}) for run in runs]
        keys = [k for k in dict.fromkeys(k for s in scores for k in s) if "-" not in k]
        keys.sort(key=lambda k: MAIN_SCORES.index(k) if k in MAIN_SCORES else len(MAIN_SCORES))
        rows = [(key, *(number(s.get(key), 2) for s in scores)) for key in keys]
        if rows:
            tables.append(Table((f"{name} (x 100)", *names), rows, numbers=True))
    return Section("Scores", "" if tables else "None of these runs has been scored.", tables=tables)


def _curves(runs: Sequence[RunFolder], names: Sequence[str]) -> Section:
    panels = [panels_of(run.rows) for run in runs]
    figures = []
    for title, curve in (("loss", "total_loss"), *(("score (%)", name) for name in MAIN_SCORES)):
        lines = {n: p.get(title, {}).get(curve, []) for n, p in zip(names, panels)}
        if sum(len(points) > 1 for points in lines.values()):
            figures.append(Drawing(charts.together(lines, label=curve), curve))
    return Section("Curves", figures=figures)


def _changes(runs: Sequence[RunFolder], names: Sequence[str]) -> Section:
    keys: dict[str, None] = {}
    for run in runs[1:]:
        keys.update(dict.fromkeys(key for key, _, _ in config_changes(run.cfg, runs[0].cfg)))
    rows = [(key, *(_value(run, key) for run in runs)) for key in keys if key != "OUTPUT_DIR"]
    table = Table(("option", *names), rows)
    return Section(
        "What differs", "" if rows else "No option differs.", tables=[table] if rows else []
    )


def _value(run: RunFolder, key: str) -> str:
    node = run.cfg
    for part in key.split("."):
        node = node.get(part, "–")
    return str(node)
