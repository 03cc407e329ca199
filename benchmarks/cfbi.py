"""Time and memory of CFBI: a whole frame, and its matching against the formulas as written.

python -m benchmarks cfbi [--size 481x849] [--objects 2] [--repeats 3]

A frame is a step of configs/cfbi/R101_davis2017.yaml with random weights. The formulas are those of
tests/cfbi/direct_matching.py. Figures are CPU seconds of one thread (best of the repeats) and the
peak of the tensors allocated on the way; a frame's resident memory is the process's high-water mark
with libraries and weights, and its growth since the libraries were loaded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.modeling import build_model
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from vis_projects.cfbi.matching import (
    CHANNEL_ORDER,
    ReferencePixels,
    global_distances,
    window_distances,
)
from vis_projects.config import load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import Frame

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cfbi"))
from direct_matching import direct_global_distances, direct_windows


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Best CPU time of a call."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        function()
        best = min(best, time.process_time() - begin)
    return best


def peak_mb(function: Callable[[], object]) -> float:
    """Largest sum of live tensor bytes during a call, from the allocator's events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    live = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 1e6


def resident_mb() -> float:
    """High-water mark of the process's resident memory (Linux: kilobytes, macOS: bytes)."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


@torch.no_grad()
def frame_figures(size: tuple[int, int], objects: int, repeats: int) -> list[float]:
    """CPU seconds, tensor peak, resident memory, its growth over the libraries' (MB)."""
    libraries = resident_mb()
    root = Path(__file__).resolve().parents[1]
    cfg = load_config(str(root / "configs/cfbi/R101_davis2017.yaml"), ["MODEL.DEVICE", "cpu"])
    propagator = build_model(cfg).eval().propagator
    images, labels = moving_boxes(size, objects, frames=2)
    frames = [Frame(torch.from_numpy(x).permute(2, 0, 1), t) for t, x in enumerate(images)]
    propagator.reset(size)
    ids = list(range(1, objects + 1))
    propagator.commit(torch.from_numpy(labels[0]).long(), ids, frame=frames[0])

    def step() -> None:
        propagator.commit(propagator.predict(frames[1]).label_map)

    step()
    cpu, resident = seconds(step, repeats), resident_mb()
    return [cpu, peak_mb(step), resident, resident - libraries]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="481x849", help="rows x columns of the network's input")
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    height, width = (int(n) for n in args.size.split("x"))
    figures = frame_figures((height, width), args.objects, args.repeats)
    headers = ["a frame, s", "tensor peak, MB", "resident, MB", "growth over the libraries, MB"]
    print(tabulate([figures], headers, floatfmt=".4g", tablefmt="pipe"), "\n")
    h, w = (height - 1) // 4 + 1, (width - 1) // 4 + 1
    objects = args.objects + 1
    query, reference = torch.rand(2, 100, h, w) * 0.1
    labels = torch.zeros(h, w, dtype=torch.int64)
    for plane in range(1, objects):
        labels[h // 4 : h // 2, plane * w // (objects + 1) :][:, : w // 8] = plane
    half = (h // 2 + 1, w // 2 + 1)
    small = [torch.nn.functional.interpolate(x[None], half)[0] for x in (query, reference)]
    small_labels = torch.nn.functional.interpolate(labels[None, None].float(), half)[0, 0].long()
    pairs = {
        "global": (
            lambda: direct_global_distances(query, [reference], [labels], objects),
            lambda: global_distances(
                query, ReferencePixels.collect([reference], [labels], objects)
            ),
        ),
        "local": (
            lambda: direct_windows(*small, small_labels, objects, CHANNEL_ORDER),
            lambda: window_distances(*small, small_labels, objects, CHANNEL_ORDER),
        ),
    }
    rows = []
    with torch.no_grad():
        for name, (direct, ours) in pairs.items():
            difference = (direct() - ours()).abs().max().item()
            times = [seconds(f, args.repeats) for f in (direct, ours)]
            peaks = [peak_mb(f) for f in (direct, ours)]
            rows.append(
                [name, *times, times[0] / times[1], *peaks, peaks[1] / peaks[0], difference]
            )
    headers = ["matching", "direct s", "ours s", "times faster", "direct MB", "ours MB",
               "share of memory", "largest difference"]  # fmt: skip
    print(tabulate(rows, headers, floatfmt=".4g", tablefmt="pipe"))
