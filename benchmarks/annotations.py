"""Memory of loading a YouTube-VIS json of the real size: 2,238 videos, 131,000 uncompressed masks.

    python -m benchmarks annotations [--videos N]

The file is made: ellipses at 720 x 1280, whose runs are written out as the released annotations
have them. It is loaded in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

SIZE = (720, 1280)
MASKS_A_VIDEO = 59  # 3 objects in about 20 frames


def runs_of_ellipse(rng: np.random.Generator) -> str:
    """Return the uncompressed RLE of an ellipse as json."""
    h, w = SIZE
    mask = np.zeros(SIZE, np.uint8)
    centre = (int(rng.integers(w)), int(rng.integers(h)))
    axes = (int(rng.integers(30, 250)), int(rng.integers(30, 250)))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    flat = np.concatenate([[0], mask.ravel(order="F"), [0]]).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff([0, *changes.tolist(), h * w]).tolist()
    return json.dumps({"counts": [n for i, n in enumerate(runs) if n or i < len(runs) - 1],
                       "size": list(SIZE)})  # fmt: skip


def write_set(root: Path, videos: int) -> Path:
    """Write the json and an image for every video; returns the json."""
    rng = np.random.default_rng(0)
    masks = [runs_of_ellipse(rng) for _ in range(1000)]
    frames, objects = MASKS_A_VIDEO // 3 + 1, 3
    image = root / "frame.jpg"
    cv2.imwrite(str(image), np.zeros((*SIZE, 3), np.uint8))
    rows, number = [], 0
    with (root / "train.json").open("w") as out:
        out.write('{"categories": [{"id": 1, "name": "a"}], "annotations": [')
        for video in range(1, videos + 1):
            folder = root / "JPEGImages" / f"{video:04d}"
            folder.mkdir(parents=True)
            (folder / "00000.jpg").hardlink_to(image)
            names = [f"{video:04d}/{t:05d}.jpg" for t in range(frames)]
            rows.append({"id": video, "height": SIZE[0], "width": SIZE[1], "length": frames,
                         "file_names": names})  # fmt: skip
            for k in range(objects):
                number += 1
                seen = MASKS_A_VIDEO // 3 + (k < MASKS_A_VIDEO % 3)
                chosen = [masks[i] for i in rng.integers(len(masks), size=seen)]
                parts = ", ".join([*chosen, *["null"] * (frames - seen)])
                row = f'"id": {number}, "video_id": {video}, "category_id": 1, "iscrowd": 0'
                out.write(f'{", " if number > 1 else ""}{{{row}, "segmentations": [{parts}]}}')
        out.write(f'], "videos": {json.dumps(rows)}}}')
    return root / "train.json"


_CHILD = """
import sys, time
from vis_projects.data.formats.ytvis import load_ytvis_json
def state(key):
    return int(next(r for r in open("/proc/self/status") if r.startswith(key)).split()[1]) / 1024
before, begin = state("VmRSS"), time.process_time()
videos, _ = load_ytvis_json(sys.argv[1], sys.argv[2])
masks = sum(len(frame) for v in videos for frame in v["annotations"])
print(masks, time.process_time() - begin, before, state("VmRSS"), state("VmHWM"))
"""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=2238)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        file = write_set(Path(root), args.videos)
        found = subprocess.run(
            [sys.executable, "-c", _CHILD, str(file), str(Path(root) / "JPEGImages")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        masks, seconds, before, after, peak = map(float, found.stdout.split())
        print(f"json of {file.stat().st_size / 1e6:.0f} MB, {masks:.0f} masks")
        print(
            f"loaded in {seconds:.1f} CPU-s; memory {before:.0f} MB before, {after:.0f} MB after, "
            f"{peak:.0f} MB at the most"
        )
