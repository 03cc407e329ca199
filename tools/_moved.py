"""Scripts that became `vis compare` and `python -m benchmarks`: old names work for one version.

Each of them is a file of two lines that calls `forward`; it says the new command in one line and
runs it with the old options translated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "benchmark_cfbi": "cfbi",
    "benchmark_frtm": "frtm",
    "benchmark_metrics": "metrics",
    "benchmark_srnet": "srnet",
    "measure_propagation": "propagation",
}
# Script -> the file of its variants; "": the two protocols of DAVIS-2016 instead.
COMPARISONS = {
    "compare_association": "configs/crossvis/compare/association.yaml",
    "compare_key_frames": "configs/seq_mask_rcnn/compare/key_frames.yaml",
    "compare_msn_switches": "configs/msn/compare/switches.yaml",
    "compare_srnet_switches": "configs/srnet/compare/switches.yaml",
    "score_davis2016_unsup": "",
}


def forward(script: str) -> int:
    """Run what became of a script (its path) with the options of this process; the exit code."""
    name, argv = Path(script).stem, sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    if name in BENCHMARKS:
        from benchmarks.__main__ import main

        return _run(name, main, [[BENCHMARKS[name], *argv]], "python -m benchmarks")
    from vis_projects.cli import main

    return _run(name, main, comparisons(name, argv), "vis")


def _run(
    name: str, main: Callable[[Sequence[str]], int], commands: list[list[str]], front: str
) -> int:
    code = 0
    for argv in commands:
        new = " ".join(f"'{a}'" if " " in a else a for a in argv)
        print(f"tools/{name}.py goes in the next version: use {front} {new}", file=sys.stderr)
        code = main(argv) or code
    return code


def comparisons(name: str, argv: Sequence[str]) -> list[list[str]]:
    """Return the arguments of `vis` that do what an old script did with ``argv``."""
    parser = argparse.ArgumentParser(prog=f"tools/{name}.py", description="now vis compare")
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", default="")
    parser.add_argument("--rules", "--variants", nargs="+", default=[], dest="only")
    parser.add_argument("--videos")
    parser.add_argument("--samples")
    parser.add_argument("--json")
    parser.add_argument("--opts", nargs="+", default=[])
    args = parser.parse_args(argv)
    file = COMPARISONS[name]
    what = ["--variants", str(ROOT / file)] if file else []
    for option in ("weights", "videos", "samples"):
        if value := getattr(args, option):
            what += [f"--{option}", value]
    what += [word for variant in args.only for word in ("--only", variant)]
    front = ["compare", "--config-file", args.config_file]
    if file:
        return [[*front, *what, *(["--json", args.json] if args.json else []), *args.opts]]
    out = []
    for protocol in ("2016", "unsup"):
        json = Path(args.json).with_suffix(f".{protocol}.json") if args.json else ""
        own = ["--protocol", protocol, *(["--json", str(json)] if json else [])]
        out.append([*front, *what, *own, *args.opts])
    return out
