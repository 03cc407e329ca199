"""CPU time of a frame, this tree against another checkout of it, in turns on one thread.

git worktree add ../before 2bea2f4
python -m benchmarks networks --against ../before [--rows frtm crossvis ...] [--rounds 3] [--json F]

Random weights, synthetic frames in memory; the best of all frames of a round counts, rounds of the
two alternate. The machine's limit is measured in the same run: a matrix product and a 3x3
convolution in float32, and how much of the better of them a frame reaches: the products of all its
operators as they are written, over the whole time of the frame.
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
# Name -> config, size, objects, opts.
ROWS: dict[str, tuple[str, tuple[int, int], int, list[str]]] = {
    "crossvis": ("configs/crossvis/R50_1x_ytvis2019.yaml", (360, 640), 0, []),
    "srnet": ("configs/srnet/R101_davis2019.yaml", (480, 864), 0, []),
    "frtm": (
        "configs/frtm/R18_fast_davis2017.yaml",
        (480, 854),
        1,
        ["MODEL.FRTM.BACKBONE_WEIGHTS", ""],
    ),
    "cfbi": ("configs/cfbi/R101_davis2017.yaml", (481, 849), 2, []),
}

# Runs in either tree: only names that both have.
WORKER = """
import json, sys, time
import torch
from torch.nn import functional as F
row, frames = json.loads(sys.argv[1]), int(sys.argv[2])
config, size, objects, opts = row
import vis_projects
from detectron2.modeling import build_model
from vis_projects.config import load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import Frame, VideoInfo
torch.set_num_threads(1)
torch.set_grad_enabled(False)
torch.manual_seed(0)
model = build_model(load_config(config, ["MODEL.DEVICE", "cpu", *opts])).eval()
images, labels = moving_boxes(tuple(size), max(objects, 1), frames=2)
model.start_video(VideoInfo(tuple(size), None, model.task, keep_results=False))
best = float("inf")
for t in range(frames + 2):
    frame = Frame(torch.from_numpy(images[t % 2]).permute(2, 0, 1), t)
    begin = time.process_time()
    model.step(frame, labels[0] if objects and t == 0 else None)
    if t >= 2:
        best = min(best, time.process_time() - begin)
def fastest(f):
    f()
    out = float("inf")
    for _ in range(8):
        begin = time.process_time(); f(); out = min(out, time.process_time() - begin)
    return out
a = torch.randn(1024, 1024)
x, w = torch.randn(1, 256, 48, 80), torch.randn(256, 256, 3, 3)
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
except ImportError:
    peak = float("nan")
# The frame's work as it is written; fused operators are not counted.
from torch.utils.flop_counter import FlopCounterMode
try:
    from vis_projects.modeling.backbones.packed_convolution import plain_convolutions
except ImportError:
    from contextlib import nullcontext as plain_convolutions
with plain_convolutions(), FlopCounterMode(display=False) as counter:
    model.step(Frame(torch.from_numpy(images[t % 2]).permute(2, 0, 1), t + 1))
print("RESULT" + json.dumps({
    "ms": 1000 * best,
    "gflop": counter.get_total_flops() / 1e9,
    "resident_mb": peak,
    "matmul": 2 * 1024**3 / fastest(lambda: a @ a) / 1e9,
    "conv3x3": 2 * 256 * 256 * 9 * 48 * 80 / fastest(lambda: F.conv2d(x, w, padding=1)) / 1e9,
}))
"""


def run(tree: Path, name: str, frames: int) -> dict[str, float]:
    """Time one row in one tree, in a process of its own."""
    folders = [tree, tree / "vis_metrics/src", tree / "detectron2_lite/src"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("OPENBLAS_CORETYPE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, json.dumps(ROWS[name]), str(frames)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tree,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"{name} in {tree}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(lines[-1][len("RESULT") :])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=5, help="timed frames of a round")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    table, limits = [], {"matmul": 0.0, "conv3x3": 0.0}
    for name in args.rows:
        rounds: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        for _ in range(args.rounds):
            for label, tree in (("before", args.against.resolve()), ("now", ROOT)):
                rounds[label].append(run(tree, name, args.frames))
        figures[name] = rounds
        best = {k: min(r["ms"] for r in v) for k, v in rounds.items()}
        reached = [r["gflop"] / r["ms"] * 1000 for r in rounds["now"]]
        shares = [g / max(r["matmul"], r["conv3x3"]) for g, r in zip(reached, rounds["now"])]
        memory = {k: max(r["resident_mb"] for r in v) for k, v in rounds.items()}
        ratios = sorted(b["ms"] / a["ms"] for a, b in zip(rounds["before"], rounds["now"]))
        for each in (r for v in rounds.values() for r in v):
            limits = {k: max(limits[k], each[k]) for k in limits}
        table.append(
            [
                name,
                *(f"{best[k]:.0f}" for k in ("before", "now")),
                f"{best['now'] / best['before']:.2f}",
                f"{ratios[0]:.2f} .. {ratios[-1]:.2f}",
                f"{max(reached):.0f}",
                f"{max(shares):.2f}",
                *(f"{memory[k]:.0f}" for k in ("before", "now")),
            ]
        )
        print(table[-1], file=sys.stderr, flush=True)
    heads = [
        "row",
        "before, CPU ms",
        "now, CPU ms",
        "ratio",
        "of rounds",
        "GFLOP/s now",
        "of limit",
    ]
    heads += ["MB before", "MB now"]
    print(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))
    print(
        f"limit of this machine, one thread, float32: matrix product {limits['matmul']:.0f}, "
        f"3x3 convolution {limits['conv3x3']:.0f} GFLOP/s"
    )
    if args.json:
        args.json.write_text(json.dumps({"rows": figures, "limits": limits}, indent=1) + "\n")
