"""Time the compacted clustering of SRNet against Algorithm 1 as the paper writes it.

python -m benchmarks srnet [--repeats 40]

Random scenes of 120x216 cells with ever more seeds, the sequential form from tests/srnet. Figures
are CPU milliseconds of one thread, best of the repeats; the two forms alternate, so that neither
finds its data in the cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from vis_projects.srnet.clustering import ClusterRules
from vis_projects.srnet.compact_clustering import cluster_compact

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "srnet"))
from sequential_clustering import cluster_sequentially, random_maps

SIZE = (120, 216)
SCENES = ((0, 0), (2, 1), (1, 2), (3, 6), (5, 12))  # seed and number of discs


def seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rules, rows = ClusterRules(), []
    for seed, blobs in SCENES:
        maps = random_maps(seed, SIZE, blobs=blobs, noise=0.02)
        arguments = (maps.embedding, maps.objectness, maps.sigma_at, maps.valid, rules)
        slow, fast = [], []
        for _ in range(args.repeats):
            slow.append(seconds(lambda m=maps: cluster_sequentially(m, rules)))
            fast.append(seconds(lambda a=arguments: cluster_compact(*a)))
        share = ((maps.objectness > rules.min_score) & maps.valid).float().mean().item()
        seeds = len(cluster_compact(*arguments).cells)
        ratio = min(slow) / min(fast)
        rows.append([seeds, f"{share:.0%}", 1e3 * min(slow), 1e3 * min(fast), ratio])
    heads = ["seeds", "candidates", "sequential, ms", "compacted, ms", "times faster"]
    print(tabulate(rows, heads, tablefmt="pipe", floatfmt=".2f"))
