"""The curves of a training: losses, main scores, learning rate, gradient norm."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .checkpointer import write_atomically

logger = logging.getLogger(__name__)

Points = list[tuple[float, float]]

# The figures that decide; counts (IDSW), recalls and interval ends are in the table of scores.
MAIN_SCORES = ("AP", "AP50", "AP75", "J&F", "J", "F", "G", "IDF1", "accuracy")
_LOSS, _SCORE, _RATE, _NORM = "loss", "score (%)", "learning rate", "gradient norm"


def panels_of(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, Points]]:
    """Sort the rows of a metrics.json into panels of named curves; empty panels are left out."""
    series: dict[str, Points] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                series[name].append((row["iteration"], value))
    panels: dict[str, dict[str, Points]] = {_LOSS: {}, _SCORE: {}, _RATE: {}, _NORM: {}}
    for name, points in series.items():
        last = name.rsplit("/", 1)[-1]
        if "loss" in name:
            panels[_LOSS][name] = points
        elif "/" in name and last in MAIN_SCORES:
            panels[_SCORE][last] = points
            low, high = series.get(f"{name}_low"), series.get(f"{name}_high")
            if low and high:
                panels[_SCORE][f"{last} (95 %)"] = [*low, *high[::-1]]
        elif name == "lr":
            panels[_RATE][name] = points
        elif name == "grad_norm":
            panels[_NORM][name] = points
    return {title: curves for title, curves in panels.items() if curves}


def draw_curves(rows: Sequence[dict[str, float]]) -> Any:
    """Return a matplotlib Figure of the curves, None where there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = panels_of(rows)
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.8 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    # Of an odd number the first, the losses, has the whole width.
    cells = [0] * (columns * lines - len(panels)) + list(range(len(panels)))
    grid = [cells[columns * k : columns * (k + 1)] for k in range(lines)]
    axes = [place for _, place in sorted(figure.subplot_mosaic(grid).items())]
    for place, (title, curves) in zip(axes, panels.items()):
        _draw_scores(place, curves) if title == _SCORE else _draw_lines(place, title, curves)
        place.set_title(title)
        place.grid(alpha=0.3)
    return figure


def _draw_lines(axes: Any, title: str, curves: dict[str, Points]) -> None:
    for name in sorted(curves, key=lambda n: (n != "total_loss", n)):
        total = name == "total_loss"
        style = {"color": "black", "linewidth": 1.8, "zorder": 3} if total else {"linewidth": 1}
        few = len(curves[name]) < 4  # a line through one point is nothing to see
        marks = {"marker": "o", "markersize": 4} if few else {}
        axes.plot(*zip(*curves[name]), label=name.removeprefix("loss_"), **style, **marks)
    if title != _RATE and all(y > 0 for points in curves.values() for _, y in points):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain_numbers())
        axes.yaxis.set_minor_formatter(_plain_numbers())
    _over_iterations(axes)
    if len(curves) > 1:
        _room_above(axes, -(-len(curves) // 2))
        axes.legend(fontsize=8, ncols=2, loc="upper right")


def _plain_numbers() -> Any:
    """6 and 0.01 on a logarithmic axis, where matplotlib itself says 6 x 10^0 and 10^-2."""
    from matplotlib.ticker import LogFormatter

    class PlainNumbers(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    return PlainNumbers()


def _draw_scores(axes: Any, curves: dict[str, Points]) -> None:
    """Scores over the iterations; with one evaluation bars, since there is no course to see."""
    names = [n for n in MAIN_SCORES if n in curves]
    if all(len(curves[n]) == 1 for n in names):
        values = [curves[n][0][1] for n in names]
        axes.barh(names, values, color="#4477aa")
        for place, (name, value) in enumerate(zip(names, values)):
            ends = [y for _, y in curves.get(f"{name} (95 %)", [])]
            if ends:
                axes.hlines(place, min(ends), max(ends), color="black", linewidth=2)
            behind = max(value, *ends) if ends else value  # the number lies behind its interval
            axes.annotate(
                f"{value:.1f}", (behind, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.invert_yaxis()
        axes.set_xlim(0, max(105, *values))
        axes.set_xlabel(f"after iteration {curves[names[0]][0][0]:g}")
        return
    for name in names:
        (line,) = axes.plot(*zip(*curves[name]), marker="o", markersize=3, label=name)
        area = curves.get(f"{name} (95 %)")
        if area:
            axes.fill(*zip(*area), color=line.get_color(), alpha=0.15, linewidth=0)
    _over_iterations(axes)
    axes.legend(fontsize=8, ncols=2)


def _room_above(axes: Any, lines: int) -> None:
    """Leave a part of the panel, by the lines of its legend, above all curves."""
    low, high = axes.get_ylim()
    share = 1 / (1 - min(0.08 * lines, 0.5)) - 1
    if axes.get_yscale() == "log":
        axes.set_ylim(low, high * (high / low) ** share)
    else:
        axes.set_ylim(low, high + share * (high - low))


def _over_iterations(axes: Any) -> None:
    axes.set_xlabel("iteration")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def plot_curves(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the curves into a PNG."""
    figure = draw_curves(rows)
    if figure is not None:
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
