"""Run a benchmark: python -m benchmarks NAME [options]; without a name they are listed.

Figures are ratios between two things measured in turns in one process, in CPU seconds. Run on a
quiet machine; no test depends on a time.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

# Benchmark -> what it measures; its module has a function ``main(argv)``.
BENCHMARKS = {
    "metrics": "scoring against slow versions written from the definitions",
    "scoring": "the whole command vis-score davis against vos-benchmark",
    "cfbi": "a frame of CFBI; its matching against the formulas",
    "frtm": "FRTM against the plain version in tests/frtm",
    "srnet": "SRNet's compacted clustering against Algorithm 1 as printed",
    "srnet_vectors": "SRNet's tracking vectors against the true ones, and what they link",
    "bulk": "many videos: a second worker, overhead a video, memory",
    "annotations": "memory of loading a json of the size of YouTube-VIS 2019",
    "annotate": "seeks and memory of the page of vis annotate on a long video",
    "corrections": "what corrected masks bring on real sequences",
    "networks": "a frame of every system against another checkout, and the machine's limit",
    "growth": "time and memory over length, objects and rows, with a plot",
    "propagation": "memory and growth of Propose-Reduce's propagation",
}


def main(argv: list[str]) -> int:
    """Run the benchmark that ``argv`` names."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, BENCHMARKS))
        lines = [f"  {name:{width}}  {what}" for name, what in BENCHMARKS.items()]
        print("\n".join([f"usage: python -m benchmarks NAME ...\n\n{__doc__}", *lines]))
        return 0
    if argv[0] not in BENCHMARKS:
        print(f"no benchmark {argv[0]!r}: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import_module(f"benchmarks.{argv[0]}").main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
