"""The report of one run: what was different, what the data are, how it went, how good it is."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from vis_metrics.average_precision import IOU_THRESHOLDS
from vis_metrics.track_errors import KINDS, analyse_errors
from vis_metrics.ytvis import match_tracks

from ..config import config_of_bases, load_config
from ..engine.curves import MAIN_SCORES, draw_curves
from ..engine.run_log import set_up_loggers
from ..structures import InputError, VideoResult
from . import charts
from .clips import loop
from .page import Clip, Drawing, Section, Table, Tile, write_page
from .quality import chosen_videos, sequences_over_time, video_qualities
from .run_folder import RunFolder, TestSet

logger = logging.getLogger(__name__)


def write_report(
    folder: str | Path, file: str | Path | None = None, *, base: CfgNode | None = None
) -> Path:
    """Write a page about the OUTPUT_DIR of a training or an evaluation.

    Args:
        folder: OUTPUT_DIR.
        file: the page; ``report.html`` in the folder by default.
        base: the config that the run's is compared with; the defaults without one.

    Raises:
        InputError: no run lies there.
    """
    run = RunFolder(folder)
    sections = [_scores(run), _training(run), _changes(run, base)]
    for test in run.sets:
        sections += _test_set(run, test, alone=len(run.sets) == 1)
    title = f"{run.system}: {run.name}"
    subtitle = f"{run.cfg.OUTPUT_DIR} · PyTorch {torch.__version__}"
    return write_page(Path(file or run.folder / "report.html"), title, subtitle, sections)


def report_on_job(config_file: str, opts: Sequence[str]) -> None:
    """Write the report of a job that is done, unless ``TEST.REPORT`` is off, and log its path.

    The first process of the first machine does it. A report that fails ends nothing: the log says
    why.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    cfg = load_config(config_file, opts)
    if not cfg.TEST.REPORT or not (Path(cfg.OUTPUT_DIR) / "config.yaml").is_file():
        return
    set_up_loggers(cfg.OUTPUT_DIR, 0)
    try:
        path = write_report(cfg.OUTPUT_DIR, base=config_of_bases(config_file))
    except Exception:
        logger.exception("report.html could not be written")
        return
    logger.info("Report: %s", path)


def number(value: Any, digits: int = 1) -> str:
    """Return a figure for people; a dash for what cannot be averaged."""
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return f"{value:.{digits}f}" if known else "–"


def _scores(run: RunFolder) -> Section:
    section = Section("Scores")
    for test in run.sets:
        for name in MAIN_SCORES:
            if name in test.scores:
                low, high = (test.scores.get(f"{name}_{end}") for end in ("low", "high"))
                more = f"95 %: {number(low)} to {number(high)}" if low is not None else ""
                where = f"{test.name} {name}" if len(run.sets) > 1 else name
                section.tiles.append(Tile(where, number(test.scores[name]), more))
        rows = [(k, number(v, 2)) for k, v in test.scores.items()]
        if rows:
            head = (f"metric on {test.name}", "x 100")
            section.tables.append(
                Table(head, rows, numbers=True, folded=f"All {len(rows)} figures")
            )
    if not section.tiles and not section.tables:
        section.text = "This run has not been scored."
    return section


def _training(run: RunFolder) -> Section:
    drawn = draw_curves(run.rows)
    section = Section("Training")
    if drawn is not None:
        section.figures.append(Drawing(charts.svg(drawn), "Curves of metrics.json"))
    steps = [row for row in run.rows if "total_loss" in row]
    if steps:
        seconds = [row["time"] for row in steps if "time" in row]
        waits = [row["data_time"] for row in steps if "data_time" in row]
        section.tiles.append(Tile("iterations", f"{int(steps[-1]['iteration']) + 1}"))
        section.tiles.append(Tile("last total loss", number(steps[-1]["total_loss"], 3)))
        if seconds:
            middle = sorted(seconds)[len(seconds) // 2]
            section.tiles.append(Tile("median step", f"{1000 * middle:.0f} ms"))
            if waits and middle > 0:
                share = 100 * sorted(waits)[len(waits) // 2] / middle
                section.tiles.append(Tile("of a step waiting for data", f"{share:.0f} %"))
    return section


def _changes(run: RunFolder, base: CfgNode | None) -> Section:
    rows = run.changes(base)
    what, before = (
        ("the config's base", "base") if base is not None else ("the defaults", "default")
    )
    folded = "" if len(rows) <= 12 else f"{len(rows)} options"
    table = Table(("option", "this run", before), rows, folded=folded)
    section = Section("What differs", f"Options whose value is not that of {what}.", tables=[table])
    if not rows:
        section.text, section.tables = f"No option differs from {what}.", []
    return section


def _test_set(run: RunFolder, test: TestSet, *, alone: bool) -> list[Section]:
    prefix = "" if alone else f"{test.name}: "
    videos = test.videos
    if test.problem:
        return [Section(f"{prefix}Data", f"The videos cannot be shown: {test.problem}")]
    sections = [_facts(test, f"{prefix}Data")]
    results = {v["video_id"]: r for v in videos if (r := test.result(v)) is not None}
    if not results:
        return sections
    try:
        if test.kind == "ytvis" and test.truth() is not None:
            sections.append(_tracks(test, results, f"{prefix}Accuracy and errors"))
        qualities = video_qualities(test, results)
        series = sequences_over_time(test, results, qualities)
        drawing = Drawing(
            charts.over_time(series), "J and F over the frames, worst sequences first"
        )
        sections.append(Section(f"{prefix}Sequences", figures=[drawing] if series else []))
        sections.append(_loops(run, test, results, qualities, f"{prefix}Videos"))
    except InputError as error:
        sections.append(Section(f"{prefix}Accuracy", f"Not shown: {error}"))
    return sections


def _facts(test: TestSet, title: str) -> Section:
    videos = test.videos
    frames = sum(v["length"] for v in videos)
    sizes = sorted({(v["height"], v["width"]) for v in videos})
    shown = ", ".join(f"{h} x {w}" for h, w in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    tiles = [
        Tile("data set", test.name),
        Tile("videos", str(len(videos))),
        Tile("frames", str(frames)),
        Tile("rows x columns", shown or "–"),
        Tile("classes", str(len(test.class_names) or "–")),
    ]
    return Section(title, tiles=tiles)


def _tracks(test: TestSet, results: Mapping[Any, VideoResult], title: str) -> Section:
    entries = list(_entries(test, results))
    matches = match_tracks(test.truth(), entries)
    precision = matches.curves().precision[:, :, :, 0, -1]
    report = analyse_errors(test.truth(), entries)
    per_class = {
        key.removeprefix("AP-"): v for key, v in test.scores.items() if key.startswith("AP-")
    }
    sizes = {
        name: test.scores[key]
        for key, name in (("APs", "small"), ("APm", "medium"), ("APl", "large"))
        if key in test.scores
    }
    cost = {kind: 100 * report.cost[kind] for kind in KINDS}
    counts = report.counts()
    rows = [(kind, counts[kind], number(cost[kind])) for kind in KINDS]
    figures = [
        Drawing(charts.bars(per_class, label="AP by class"), "AP of every class"),
        Drawing(charts.precision_recall(precision, IOU_THRESHOLDS), "Precision over recall"),
        Drawing(charts.bars(sizes, label="AP by size"), "AP of small, medium and large objects"),
        Drawing(
            charts.bars(cost, label="cost in AP50", colour=charts.ORANGE, unit="points"),
            "What each kind of error costs: the rise of AP50 if it alone were mended",
        ),
    ]
    table = Table(("error", "how many", "AP50 that it costs"), rows, numbers=True)
    return Section(title, figures=figures, tables=[table])


def _entries(test: TestSet, results: Mapping[Any, VideoResult]) -> Iterable[dict[str, Any]]:
    contiguous = test.metadata.get("thing_dataset_id_to_contiguous_id", {})
    ids = sorted(contiguous, key=contiguous.__getitem__)
    for key, result in results.items():
        result.category_ids = ids or None
        yield from result.to_ytvis(key)


def _loops(
    run: RunFolder,
    test: TestSet,
    results: Mapping[Any, VideoResult],
    qualities: Mapping[Any, float],
    title: str,
) -> Section:
    # A system of another package may be registered no more.
    architecture = META_ARCH_REGISTRY.get(run.system) if run.system in META_ARCH_REGISTRY else None
    given = getattr(architecture, "takes_masks", False)
    threshold = 0.0 if given else getattr(architecture, "drawn_above", 0.0)
    videos = {v["video_id"]: v for v in test.videos}
    clips = []
    for name, key in (
        chosen_videos(qualities) or dict.fromkeys(["first"], next(iter(results)))
    ).items():
        quality = f" ({100 * qualities[key]:.0f} %)" if key in qualities else ""
        data = loop(
            videos[key],
            results[key],
            class_names=None if given else test.class_names or None,
            threshold=threshold,
        )
        clips.append(Clip(data, f"{name}: {videos[key]['name']}{quality}"))
    text = "The best, the median and the worst video, beside their ground truth."
    return Section(title, text, clips=clips)
