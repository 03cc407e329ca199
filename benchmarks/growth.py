"""How time and memory of the online systems grow with length, objects and rows of the video.

python -m benchmarks growth [--systems crossvis srnet frtm cfbi copy_first] [--lengths 50 200 800]
                            [--length-rows 96] [--objects 1 5 20] [--rows 240 480 720 1080]
                            [--plot docs/images/growth.png]

The quickstart networks with random weights, synthetic frames; every point runs in a process of its
own. Figures are CPU milliseconds a frame and megabytes of resident memory above the libraries'.
Length grows on small frames, since it is what does not change that is looked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "crossvis": "configs/quickstart.yaml",
    "srnet": "configs/srnet/quickstart_synthetic.yaml",
    "frtm": "configs/frtm/R18_fast_davis2017.yaml",
    "cfbi": "configs/cfbi/quickstart_synthetic.yaml",
    "feature_match": "configs/feature_match/lite0.yaml",
    "copy_first": "configs/copy_first/davis2016.yaml",
}
TAKE_MASKS = {"frtm", "cfbi", "feature_match", "copy_first"}
BASE = {"objects": 1, "rows": 240}

WORKER = """
import json, resource, sys, time
import torch
config, length, objects, rows = json.loads(sys.argv[1])
import vis_projects
from detectron2.modeling import build_model
from vis_projects.config import load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import Frame, VideoInfo
torch.set_num_threads(1)
torch.set_grad_enabled(False)
def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
libraries = resident()
opts = ["MODEL.FRTM.BACKBONE_WEIGHTS", ""] if "frtm" in config else []
opts += ["INPUT.MIN_SIZE_TEST", "0"] if "feature_match" in config else []  # the frame's own rows
model = build_model(load_config(config, ["MODEL.DEVICE", "cpu", *opts])).eval()
size = (rows, rows * 16 // 9 // 2 * 2)
images, labels = moving_boxes(size, objects, frames=8)
model.start_video(VideoInfo(size, None, model.task, keep_results=False))
masks = labels[0] if model.takes_masks else None
for t in range(length):
    if t == 2:
        begin = time.process_time()
    frame = Frame(torch.from_numpy(images[t % 8]).permute(2, 0, 1), t)
    model.step(frame, masks if t == 0 else None)
spent = time.process_time() - begin
print("RESULT" + json.dumps([1000 * spent / (length - 2), resident() - libraries]))
"""


def point(config: str, length: int, objects: int, rows: int) -> tuple[float, float]:
    """CPU milliseconds a frame, and megabytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = json.dumps([config, length, objects, rows])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"{config}: {done.stderr.strip().splitlines()[-1]}")
    return tuple(json.loads(lines[-1][len("RESULT") :]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--lengths", nargs="*", type=int, default=[50, 200, 800])
    parser.add_argument("--length-rows", type=int, default=96, help="rows while length grows")
    parser.add_argument("--objects", nargs="*", type=int, default=[1, 5, 20])
    parser.add_argument("--rows", nargs="*", type=int, default=[240, 480, 720, 1080])
    parser.add_argument("--plot", type=Path, help="draw the curves here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    axes = {"length": args.lengths, "objects": args.objects, "rows": args.rows}
    figures: dict[str, dict[str, list[Any]]] = {}
    table = []
    for system in args.systems:
        figures[system] = {}
        for axis, values in axes.items():
            if axis == "objects" and system not in TAKE_MASKS:
                continue
            for value in values:
                own = {"rows": args.length_rows} if axis == "length" else {"length": 10}
                at = {**BASE, **own, axis: value}
                ms, mb = point(CONFIGS[system], at["length"], at["objects"], at["rows"])
                figures[system].setdefault(axis, []).append([value, ms, mb])
                table.append([system, axis, value, f"{ms:.0f}", f"{mb:.0f}"])
                print(*table[-1], file=sys.stderr, flush=True)
    heads = ["system", "what grows", "to", "CPU ms a frame", "MB above the libraries"]
    print(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot:
        draw(figures, args.plot)


def draw(figures: dict[str, dict[str, list[Any]]], file: Path) -> None:
    """Draw time and memory over each axis, one curve a system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = {"length": "frames", "objects": "objects", "rows": "rows"}
    figure, grid = plt.subplots(2, 3, figsize=(11, 6), sharex="col")
    for column, axis in enumerate(names):
        for row, label in ((0, "CPU ms a frame"), (1, "MB above the libraries")):
            plot = grid[row][column]
            for system, by_axis in figures.items():
                points = by_axis.get(axis, [])
                plot.plot([p[0] for p in points], [p[1 + row] for p in points], "o-", label=system)
            plot.set_ylabel(label)
            plot.set_yscale("log")
            plot.grid(alpha=0.3)
        grid[1][column].set_xlabel(names[axis])
    grid[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
