"""What corrections bring: python -m benchmarks corrections --config-file C [--weights W].

A VOS system gets the mask of the first frame, then up to three corrections, one after the other:
each time the true mask of the frame with the lowest J that has none yet, and the video is run again
with all masks so far. Measured is the mean J and F of the frames that were given no mask, before
and after each correction over the same frames: without those that are given by then. As a mask
only helps the frames after it, the frame is chosen among those with at least ``--after`` frames
behind it; the last frame does not count (DAVIS).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from vis_metrics.region_boundary import frame_measures
from vis_projects.modeling import VideoModel

TARGET = 0.8  # how many corrections until the mean J&F of the other frames reaches it


def measures(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Return (J, F), the mean over the objects of a frame's label map (H, W)."""
    count = max(int(truth.max()), 1)
    region, boundary = frame_measures(truth, result, num_gt=count, num_results=count)
    rows = np.arange(count)
    return np.array([region[rows, rows].mean(), boundary[rows, rows].mean()])


def run(model: VideoModel, video: Any, truth: Sequence[np.ndarray], given: set[int]) -> np.ndarray:
    """Return (J, F) of every frame, (T, 2), with the true masks of some frames."""
    result = model.run_video(video, {t: truth[t] for t in sorted(given)})
    return np.stack([measures(t, r) for t, r in zip(truth, result.label_maps())])


def correct(
    model: VideoModel, video: Any, truth: Sequence[np.ndarray], *, corrections: int, after: int
) -> list[dict[str, float]]:
    """Correct one video; one row per correction: its frame, J&F of the others before and after."""
    given, rows = {0}, []
    values = run(model, video, truth, given)
    for _ in range(corrections):
        free = [t for t in range(len(truth) - 1 - after) if t not in given]
        if not free:
            break
        worst = min(free, key=lambda t: values[t, 0])
        given.add(worst)
        rest = [t for t in range(len(truth) - 1) if t not in given]
        before = values[rest].mean()
        values = run(model, video, truth, given)
        rows.append({"frame": worst, "before": before, "after": values[rest].mean()})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run on every sequence of a VOS data set and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--dataset", default="davis_2016_val")
    parser.add_argument("--sequences", nargs="*", help="default: all")
    parser.add_argument("--corrections", type=int, default=3)
    parser.add_argument("--after", type=int, default=5, help="frames behind a corrected one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")
    args = parser.parse_args(argv)

    from vis_projects.config import load_config
    from vis_projects.data import TestMapper, load_videos
    from vis_projects.weights import build_for_test

    opts = [] if args.weights is None else ["MODEL.WEIGHTS", args.weights]
    cfg = load_config(args.config_file, [*opts, *args.opts])
    model, _ = build_for_test(cfg)
    model.eval()
    mapper = TestMapper(image_format=model.input_format, task="vos")
    found = {}
    for video in load_videos(args.dataset):
        name = str(video.get("name") or video["video_id"])
        if args.sequences and name not in args.sequences:
            continue
        maps = video["annotations"]
        truth = [np.asarray(maps.label_map(t)) for t in range(video["length"])]
        rows = correct(
            model,
            mapper(video)["frames"],
            truth,
            corrections=args.corrections,
            after=args.after,
        )
        found[name] = rows
        print(name, ", ".join(f"{r['frame']}: {r['before']:.3f} -> {r['after']:.3f}" for r in rows))
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))
    print(summary(found))
    return 0


def summary(found: dict[str, list[dict[str, float]]]) -> str:
    """Return a Markdown table of J&F in per cent, and in how many sequences every correction
    helped."""
    lines = []
    for name, rows in found.items():
        steps = [f"{100 * r['before']:.1f} → {100 * r['after']:.1f} ({r['frame']})" for r in rows]
        values = [rows[0]["before"], *(r["after"] for r in rows)]
        need = next((str(n) for n, v in enumerate(values) if v >= TARGET), "-")
        lines.append([name, *steps, need])
    counts = [len(rows) for rows in found.values()] or [0]
    headers = ["sequence", *(f"correction {n + 1} (frame)" for n in range(max(counts)))]
    table = tabulate(lines, [*headers, "until 80"], tablefmt="github")
    rising = sum(all(r["after"] > r["before"] for r in rows) for rows in found.values())
    return f"{table}\n\nEvery correction raised the others in {rising} of {len(found)} sequences."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
