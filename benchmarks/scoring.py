"""The whole command `vis-score davis` against `vos-benchmark`, on the same files.

    python -m benchmarks scoring --davis DAVIS [--tool PYTHON] [--repeat N]

DAVIS is a root with Annotations/480p; the results repeat each sequence's first mask. PYTHON is the
interpreter of an environment with the package `vos-benchmark`; without it only our rows are
printed. Commands are run in turns; the figures are the best of N: CPU seconds and the peak memory
of a process, imports and workers included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vis_metrics.errors import GroundTruthError
from vis_metrics.files.davis_layout import find_annotations
from vis_metrics.files.writing import write_sequence

TOOL = (
    "from vos_benchmark.benchmark import benchmark; benchmark([{gt!r}], [{own!r}], verbose=False)"
)


def copy_first_masks(davis: Path, folder: Path) -> tuple[Path, Path]:
    """Write results, and links to the ground truth's sequences; returns both folders."""
    annotations, _ = find_annotations(davis, "2016")
    for name in annotations.videos():
        frames = list(annotations.frames(name))
        first = annotations.read(name, frames[0])
        write_sequence(folder / "own" / name, [first] * len(frames), frames)
        (folder / "gt").mkdir(exist_ok=True)
        (folder / "gt" / name).symlink_to((annotations.place / name).resolve())
    if not (folder / "own").is_dir():
        raise GroundTruthError(f"{davis}: holds no sequence")
    return folder / "gt", folder / "own"


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; returns CPU seconds, wall seconds and peak megabytes of its processes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}")
    wall = time.perf_counter() - start
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--tool", help="python of an environment with vos-benchmark")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        gt, own = map(str, copy_first_masks(args.davis, Path(folder)))
        score = [sys.executable, "-m", "vis_metrics", "davis", "--protocol", "2016"]
        score += ["--ground-truth", gt, "--results", own]
        commands = {
            "vis-score, one process": [*score, "--num-workers", "0"],
            "vis-score, the cores": score,
            "vis-score --help": [*score[:4], "--help"],
        }
        if args.tool:
            commands["vos-benchmark"] = [args.tool, "-c", TOOL.format(gt=gt, own=own)]
        rows = {name: [] for name in commands}
        for _ in range(args.repeat):
            for name, command in commands.items():
                rows[name].append(measure(command))
    tool = min(rows.get("vos-benchmark") or [(float("nan"), float("nan"), 0.0)])
    print(f"{'':24}{'CPU [s]':>9}{'of tool':>9}{'wall [s]':>10}{'of tool':>9}{'MB':>6}")
    for name, figures in rows.items():
        cpu, wall, memory = (min(column) for column in zip(*figures))
        print(
            f"{name:24}{cpu:9.2f}{cpu / tool[0]:9.2f}{wall:10.2f}{wall / tool[1]:9.2f}{memory:6.0f}"
        )
