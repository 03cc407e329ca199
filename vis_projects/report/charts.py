"""Charts of a report, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREY = "#33628f", "#c8731e", "#8a8a8a"
_MOST_CLASSES = 40  # bars of one chart; the rest is in the table of scores


def figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a matplotlib Figure and its one Axes, in inches."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return drawn, axes


def svg(drawn: Any) -> str:
    """Return a figure as an ``<svg>`` element; text stays text, equal figures equal bytes."""
    import matplotlib

    settings = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        out = io.StringIO()
        drawn.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", text, count=1)


def bars(values: Mapping[str, float], *, label: str, colour: str = BLUE, unit: str = "%") -> str:
    """Horizontal bars, the largest first; what is not a number is left out."""
    rows = [(name, v) for name, v in values.items() if v is not None and math.isfinite(v)]
    rows = sorted(rows, key=lambda row: -row[1])[:_MOST_CLASSES]
    if not rows:
        return ""
    drawn, axes = figure(6.4, 0.9 + 0.26 * len(rows))
    names, heights = zip(*rows)
    drawn_bars = axes.barh(names, heights, color=colour)
    axes.bar_label(drawn_bars, fmt="%.1f" if unit else "%g", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(min(0, *heights), max(5, *heights) * 1.15)
    axes.set_xlabel(f"{label} ({unit})" if unit else label)
    return svg(drawn)


def histogram(values: Sequence[float], *, label: str) -> str:
    """How often values occur; whole numbers of a small range get a bar each."""
    if not len(values):
        return ""
    drawn, axes = figure(6.4, 2.8)
    data = np.asarray(values, float)
    whole = (data == data.round()).all() and np.ptp(data) <= 30
    edges = np.arange(data.min() - 0.5, data.max() + 1) if whole else min(30, len(data))
    axes.hist(data, bins=edges, color=BLUE, rwidth=0.9)
    axes.set(xlabel=label, ylabel="how often")
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return svg(drawn)


def precision_recall(precision: np.ndarray, thresholds: np.ndarray) -> str:
    """Precision over recall, averaged over the classes that have objects.

    Args:
        precision: (S, 101, K), -1 where a class has no object.
        thresholds: tube IoUs (S,).
    """
    drawn, axes = figure(6.4, 3.6)
    recall = np.linspace(0, 1, precision.shape[1])
    valid = precision[0, 0] > -1
    if not valid.any():
        return ""
    for s, colour in zip((0, 5, 8), (BLUE, ORANGE, GREY)):
        mean = precision[s][:, valid].mean(1)
        axes.plot(recall, mean, color=colour, label=f"tube IoU {thresholds[s]:.2f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25)
    return svg(drawn)


def over_time(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """J and F of sequences over their frames, one small panel each.

    Args:
        series: by sequence, J and F (T,), fractions; NaN where nothing is scored.
    """
    from matplotlib.figure import Figure

    if not series:
        return ""
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    drawn = Figure(figsize=(3.4 * columns, 1.9 * lines), layout="constrained")
    places = drawn.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for place in places[len(series) :]:
        place.set_axis_off()
    for place, (name, (region, boundary)) in zip(places, series.items()):
        place.plot(region, color=BLUE, label="J")
        place.plot(boundary, color=ORANGE, label="F")
        place.set_ylim(0, 1.02)
        place.set_title(name, fontsize=9)
        place.tick_params(labelsize=7)
        place.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        place.grid(alpha=0.25)
    places[0].legend(frameon=False, fontsize=8)
    return svg(drawn)


def together(curves: Mapping[str, Sequence[tuple[float, float]]], *, label: str) -> str:
    """One figure of several runs over the iterations."""
    if not any(curves.values()):
        return ""
    drawn, axes = figure(6.4, 3.4)
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points), label=name, marker="o" if len(points) < 30 else None, ms=3)
    axes.set(xlabel="iteration", ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    return svg(drawn)
