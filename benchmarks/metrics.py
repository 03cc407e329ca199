"""Time the metrics against slow versions written from their definitions, in one run.

    python -m benchmarks metrics [--case crowded|ordinary|unsup|all] [--scale S] [--json FILE]
    python -m benchmarks metrics --against ../before    YouTube-VIS AP, another checkout in turn

Cases are those for which `docs/metrics.md` gives the official tools' times:

    crowded   YouTube-VIS, 20 videos x 60 frames, 100 tracks a video, up to 15 objects, 3 classes
    ordinary  YouTube-VIS, 300 videos x 30 frames, 10 tracks a video, 1-3 objects, 40 classes
    unsup     DAVIS unsupervised, 3 objects x 20 proposals, 480 x 854

Times are CPU seconds of this process, with one thread. Both sides must agree to 1e-12. With
``--against`` each side runs in processes of its own, and a row says where our time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "vis_metrics"))

import slow_metrics

from vis_metrics import evaluate_ytvis
from vis_metrics.davis import score_sequence
from vis_metrics.errors import GroundTruthError, ResultFileError
from vis_metrics.files.label_files import LabelArray

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "crowded": {"videos": 20, "frames": 60, "tracks": 100, "objects": (8, 15), "classes": 3},
    "ordinary": {"videos": 300, "frames": 30, "tracks": 10, "objects": (1, 3), "classes": 40},
}
SIZE = (360, 640)
OFFICIAL_SECONDS = {"crowded": 12.0, "ordinary": 4.2, "unsup": 0.335}  # unsup: per frame


class Shape:
    """A wobbly outline that drifts over the frames."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.center = rng.uniform((60, 60), (SIZE[1] - 60, SIZE[0] - 60))
        self.speed = rng.normal(0, 2, 2)
        self.axes = rng.uniform(25, 90, 2)
        self.phases = rng.uniform(0, 2 * np.pi, 3)

    def near(self, rng: np.random.Generator) -> Shape:
        """A shape a little off this one, as a prediction would be."""
        other = Shape(rng)
        other.center = self.center + rng.normal(0, 6, 2)
        other.speed = self.speed + rng.normal(0, 0.1, 2)
        other.axes = self.axes * rng.uniform(0.85, 1.15, 2)
        other.phases = self.phases
        return other

    def draw(self, t: int) -> np.ndarray:
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = [0.12 * np.sin((3 + 2 * i) * angle + p) for i, p in enumerate(self.phases)]
        radius = 1 + np.sum(waves, axis=0)
        outline = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] * self.axes
        mask = np.zeros(SIZE, np.uint8)
        points = np.round(outline + self.center + self.speed * t).astype(np.int32)
        cv2.fillPoly(mask, [points], 1)
        return mask

    def tube(self, frames: int) -> list[dict[str, Any] | None]:
        tube = []
        for t in range(frames):
            rle = mask_util.encode(np.asfortranarray(self.draw(t)))
            empty = mask_util.area(rle) == 0
            rle = {"size": list(SIZE), "counts": rle["counts"].decode()}
            tube.append(None if empty else rle)
        return tube


def uncompressed(rle: dict[str, Any] | None) -> dict[str, Any] | None:
    """The form of the released annotations."""
    if rle is None:
        return None
    flat = np.concatenate([[0], mask_util.decode(rle).ravel(order="F"), [2]])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [len(flat) - 2]]))
    return {"size": list(SIZE), "counts": runs.tolist()}


def make_ytvis(case: dict[str, Any], scale: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Generate ground truth and results of a case, deterministically."""
    rng = np.random.default_rng(0)
    videos, annotations, results = [], [], []
    for video in range(1, max(1, round(case["videos"] * scale)) + 1):
        videos.append({"id": video, "height": SIZE[0], "width": SIZE[1], "length": case["frames"]})
        shapes = []
        for _ in range(rng.integers(case["objects"][0], case["objects"][1] + 1)):
            shape, category = Shape(rng), int(rng.integers(1, case["classes"] + 1))
            shapes.append((shape, category))
            tube = shape.tube(case["frames"])
            areas = [None if m is None else int(mask_util.area(m)) for m in tube]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video,
                    "category_id": category,
                    "iscrowd": 0,
                    "areas": areas,
                    "segmentations": [uncompressed(m) for m in tube],
                }
            )
        for index in range(case["tracks"]):
            if rng.random() < 0.6:
                shape, category = shapes[index % len(shapes)]
                shape = shape.near(rng)
            else:
                shape, category = Shape(rng), int(rng.integers(1, case["classes"] + 1))
            results.append(
                {
                    "video_id": video,
                    "category_id": category,
                    "score": round(float(rng.random()), 4),
                    "segmentations": shape.tube(case["frames"]),
                }
            )
    categories = [{"id": k + 1, "name": f"class_{k + 1}"} for k in range(case["classes"])]
    truth = {"videos": videos, "categories": categories, "annotations": annotations}
    return truth, results


def make_davis(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Three objects and a grid of twenty proposals, 480 x 854."""
    gt = np.zeros((frames, 480, 854), np.uint8)
    results = np.zeros_like(gt)
    for t in range(frames):
        for k, (x, y) in enumerate([(180, 150), (420, 290), (640, 200)]):
            cv2.ellipse(gt[t], (x + 2 * t, y), (90 + 10 * k, 70), 10 * t, 0, 360, k + 1, -1)
        for k in range(20):
            center = (90 + (k % 5) * 165 + t, 65 + (k // 5) * 115)
            cv2.ellipse(results[t], center, (78, 52), 5 * t, 0, 360, k + 1, -1)
    return gt, results


def seconds(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """CPU seconds of the fastest of several calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


@contextmanager
def ytvis_files(name: str, scale: float) -> Iterator[tuple[Path, Path]]:
    """Write ground truth and results of a case to files."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "gt.json", Path(folder) / "results.json"
        for file, content in zip(files, make_ytvis(CASES[name], scale)):
            file.write_text(json.dumps(content))
        yield files


# Runs in either tree: only names that both have.
WORKER = """
import json, sys, time
from pathlib import Path
from pycocotools import mask
from importlib import import_module
evaluate_ytvis = import_module(sys.argv[4]).evaluate_ytvis
spent = {}
def timed(owner, name):
    function = getattr(owner, name)
    def wrapper(*args, **kwargs):
        begin = time.process_time()
        out = function(*args, **kwargs)
        spent[name] = spent.get(name, 0) + time.process_time() - begin
        return out
    setattr(owner, name, wrapper)
files = [Path(file) for file in sys.argv[1:3]]
best = float("inf")
for _ in range(3):
    begin = time.process_time()
    report = evaluate_ytvis(*files)
    best = min(best, time.process_time() - begin)
if sys.argv[3] == "parts":
    import vis_metrics.ytvis as module
    for owner, name in ((mask, "iou"), (mask, "area"), (module, "read_ground_truth"),
                        (module, "read_results")):
        timed(owner, name)
    begin = time.process_time()
    evaluate_ytvis(*files)
    spent["all"] = time.process_time() - begin
print("RESULT" + json.dumps({"seconds": best, "AP": report["AP"], "parts": spent}))
"""


def run_against(name: str, scale: float, tree: Path, rounds: int) -> dict[str, Any]:
    """Time one YouTube-VIS case in this tree and another one, in turns."""
    now: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    with ytvis_files(name, scale) as files:
        for _ in range(rounds):
            for root, figures in ((tree, before), (ROOT, now)):
                folders = [
                    str(root / part) for part in ("vis_metrics/src", "", "detectron2_lite/src")
                ]
                command = [sys.executable, "-c", WORKER, *map(str, files)]
                own = (root / "vis_metrics").is_dir()  # at first it was a part of vis_projects
                command += ["parts" if root == ROOT else "whole"]
                command += ["vis_metrics" if own else "vis_projects.evaluation"]
                done = subprocess.run(
                    command,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
                    capture_output=True,
                    text=True,
                    cwd=root,
                )
                if done.returncode:
                    raise SystemExit(f"{root}: {done.stderr.strip().splitlines()[-1]}")
                figures.append(json.loads(done.stdout.split("RESULT")[1]))
    assert abs(now[0]["AP"] - before[0]["AP"]) < 1e-12
    best = {k: min(r["seconds"] for r in v) for k, v in (("before", before), ("now", now))}
    parts = min((r["parts"] for r in now), key=lambda p: p["all"])
    return {**best, "gain": best["before"] / best["now"], "parts": parts}


def run_ytvis(name: str, scale: float) -> dict[str, float]:
    """Time one YouTube-VIS case from files to numbers, on both sides."""
    with ytvis_files(name, scale) as files:
        fast, ours = seconds(lambda: evaluate_ytvis(*files), 3)
        load = lambda: slow_metrics.ytvis(*(json.loads(f.read_text()) for f in files))  # noqa: E731
        slow, theirs = seconds(load, 1)
    for key, value in theirs.items():
        own = -1.0 if ours[key] != ours[key] else ours[key]
        assert abs(own - value) < 1e-12, (key, own, value)
    return {"seconds": fast, "slow_seconds": slow, "AP": ours["AP"]}


def run_unsup(scale: float) -> dict[str, float]:
    """Time unsupervised DAVIS per frame, without reading PNGs, on both sides."""
    gt, results = make_davis(max(2, round(12 * scale)))
    maps = LabelArray(gt, "gt", GroundTruthError), LabelArray(results, "results", ResultFileError)
    fast, ours = seconds(lambda: score_sequence("grid", *maps, "unsup"), 3)
    slow, theirs = seconds(lambda: slow_metrics.unsupervised(gt, results), 1)
    for k, series in enumerate(ours.objects):
        assert np.abs(series.region - theirs[0][:, k]).max() < 1e-12
        assert np.abs(series.boundary - theirs[1][:, k]).max() < 1e-12
    return {"seconds": fast / len(gt), "slow_seconds": slow / len(gt)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=["crowded", "ordinary", "unsup", "all"], default="all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the videos (default 1)")
    parser.add_argument("--against", type=Path, help="another checkout; YouTube-VIS AP alone")
    parser.add_argument("--rounds", type=int, default=3, help="of --against (default 3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    figures: dict[str, Any] = {}
    if args.against is not None:
        for name in CASES if args.case in ("all", "unsup") else (args.case,):
            row = run_against(name, args.scale, args.against.resolve(), args.rounds)
            figures[name] = row
            shares = {k: v / row["parts"]["all"] for k, v in row["parts"].items() if k != "all"}
            where = ", ".join(f"{k} {100 * v:.0f} %" for k, v in shares.items())
            print(
                f"{name}: before {row['before']:.2f} s, now {row['now']:.2f} s, "
                f"{row['gain']:.2f} times as fast; of ours {where}",
                flush=True,
            )
        _write(figures, args.json)
        return
    print(
        f"{'case':10} {'ours [s]':>10} {'slow [s]':>10} {'ratio':>7} "
        f"{'official [s]':>13} {'ratio':>7}"
    )
    for name in ("crowded", "ordinary", "unsup") if args.case == "all" else (args.case,):
        row = run_unsup(args.scale) if name == "unsup" else run_ytvis(name, args.scale)
        official = OFFICIAL_SECONDS[name] * (1.0 if name == "unsup" else args.scale)
        figures[name] = row
        fast, slow = row["seconds"], row["slow_seconds"]
        print(
            f"{name:10} {fast:10.4f} {slow:10.3f} {slow / fast:7.1f} {official:13.3f} "
            f"{official / fast:7.1f}",
            flush=True,
        )
    _write(figures, args.json)


def _write(figures: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(figures, indent=2) + "\n")
