"""Time FRTM against the slow reference in tests/frtm, in one run on one CPU thread.

python -m benchmarks frtm [--json FILE] [--size 480x854] [--repeat 3]

Both run the same filled weights and the same moving object, ResNet-18. Times are CPU seconds of
this process; fast and slow alternate, and the median counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.segmentation_network import SegmentationNetwork
from vis_projects.frtm.target_learner import TargetOptions
from vis_projects.frtm.tracker import ObjectTracker
from vis_projects.modeling import Preprocess
from vis_projects.structures import Frame

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> ModuleType:
    """Import a file of the tests."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = load(ROOT / "tests" / "goldens" / "fill.py")
plain_frtm = load(ROOT / "tests" / "frtm" / "reference.py")

FAST = TargetOptions()
FULL = TargetOptions(init_steps=(5, 10, 10, 10, 10), update_steps=(10,))
PRESETS = {"fast": FAST, "full": FULL}
# Parts of a frame's time: every frame, and every eighth.
EIGHTH = 8


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compare(fast: Callable[[], object], slow: Callable[[], object], repeat: int) -> dict:
    """Alternate both; return medians in milliseconds and their ratio."""
    fast()
    times = [(seconds(fast), seconds(slow)) for _ in range(repeat)]
    a, b = (statistics.median(t[i] for t in times) for i in range(2))
    return {"fast_ms": round(1e3 * a, 1), "slow_ms": round(1e3 * b, 1), "ratio": round(b / a, 2)}


class Bench:
    """Both versions with the same weights and frames."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.backbone, self.network = ResNetFeatures(18), None
        self.network = SegmentationNetwork(self.backbone.channels)
        for module, prefix in ((self.backbone, ""), (self.network, "refiner.")):
            state = {
                k: torch.from_numpy(fill.values(prefix + k, tuple(v.shape)).copy()).to(v.dtype)
                for k, v in module.state_dict().items()
            }
            module.load_state_dict(state)
            module.eval()
        self.plain_backbone = plain_frtm.PlainBackbone(18, self.backbone.state_dict())
        self.plain_network = plain_frtm.PlainNetwork(self.network).eval()
        h, w = size
        self.image = fill.frames(1, 1, h, w)[0]
        self.mask = np.zeros(size, bool)
        self.mask[h // 3 : 2 * h // 3, w // 3 : w // 2] = True
        self.image[self.mask] = 255 - self.image[self.mask] // 2
        self.frame = Frame(torch.from_numpy(self.image).permute(2, 0, 1))
        self.preprocess = Preprocess(
            (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), frame_format="RGB"
        )
        # A mask of the object's size is learned from whatever the untrained network says.
        self.plane = torch.from_numpy(self.mask).float() * 0.9

    def trackers(self, options: TargetOptions) -> tuple[ObjectTracker, Any]:
        fast = ObjectTracker(
            self.backbone, self.network, preprocess=self.preprocess, options=options
        )
        fast.reset(self.size)
        return fast, plain_frtm.PlainTracker(self.plain_backbone, self.plain_network, options)

    def start(
        self, fast: ObjectTracker, plain: plain_frtm.PlainTracker
    ) -> tuple[Callable, Callable]:
        """Both versions' first frame, features of the frame included."""

        def fast_start() -> None:
            fast.reset(self.size)
            fast.enter(fast.look(self.frame), [1], torch.from_numpy(self.mask)[None])

        def slow_start() -> None:
            w = list(fast.initial_model([1], 256).state().values())
            plain.start(self.image, self.mask, w, np.random.default_rng([0, 1]))

        return fast_start, slow_start

    def fill_memory(
        self, fast: ObjectTracker, plain: plain_frtm.PlainTracker, samples: int
    ) -> None:
        """Insert the frame again until both memories hold ``samples``."""
        seen = fast.look(self.frame)
        interval, learner = fast.options.interval, fast.targets[0]
        while learner.memory.filled < samples:
            learner.frames = 0  # no update
            fast.learn(seen, self.plane[None])
            plain.insert(seen.features["layer4"].contiguous(), self.plane[None, None])
        learner.frames = interval

    def measure(self, preset: str, samples: int, repeat: int) -> dict:
        """Times of init, update and one frame's parts with ``samples`` in the memory."""
        options = PRESETS[preset]
        fast, plain = self.trackers(options)
        starts = self.start(fast, plain)
        out = {"init": compare(*starts, max(repeat - 1, 1))}
        starts[0]()
        self.fill_memory(fast, plain, samples)
        learner = fast.targets[0]
        out["update"] = compare(lambda: learner._optimise(None), plain.update, repeat)
        x = fast.look(self.frame).features
        plain_x = self.plain_backbone(self.frame.image)
        score = learner.scores(x["layer4"])
        out["backbone"] = compare(
            lambda: fast.features([self.frame]),
            lambda: self.plain_backbone(self.frame.image),
            repeat,
        )
        out["segmentation"] = compare(
            lambda: fast.refine(score, x, self.size),
            lambda: torch.sigmoid(self.plain_network(score, plain_x, self.size)),
            repeat,
        )
        # The whole tracker without its update; the update is added at its share.
        learner.options = plain.o = TargetOptions(**{**vars(options), "interval": 10**9})
        out["frame_without_update"] = compare(
            lambda: fast.labels(fast.step(self.frame)), lambda: plain.step(self.image), repeat
        )
        frame = {
            k: round(out["frame_without_update"][k] + out["update"][k] / EIGHTH, 1)
            for k in ("fast_ms", "slow_ms")
        }
        frame["ratio"] = round(frame["slow_ms"] / frame["fast_ms"], 2)
        out["frame"] = frame
        return out

    def bfloat16(self, repeat: int) -> dict:
        """The networks in bfloat16 against the slow reference in float32."""
        fast, plain = self.trackers(FAST)
        self.start(fast, plain)[0]()
        fast.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
        score = fast.targets[0].scores(fast.look(self.frame).features["layer4"])
        with fast.autocast():
            x = fast.features([self.frame])
        plain_x = self.plain_backbone(self.frame.image)

        def half() -> None:
            with fast.autocast():
                fast.refine(score, x, self.size)

        def backbone() -> None:
            with fast.autocast():
                fast.features([self.frame])

        return {
            "segmentation": compare(
                half, lambda: self.plain_network(score, plain_x, self.size), repeat
            ),
            "backbone": compare(backbone, lambda: self.plain_backbone(self.frame.image), repeat),
        }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="480x854", help="rows x columns")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bench = Bench(tuple(int(v) for v in args.size.split("x")))
    with torch.no_grad():
        figures = {
            "fast preset, 13 samples": bench.measure("fast", 13, args.repeat),
            "full preset, 80 samples": bench.measure("full", 80, args.repeat),
            "bfloat16": bench.bfloat16(args.repeat),
        }
    for name, rows in figures.items():
        print(name)
        for part, row in rows.items():
            print(f"  {part:22}{row['fast_ms']:>10} ms{row['slow_ms']:>10} ms{row['ratio']:>8} x")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
