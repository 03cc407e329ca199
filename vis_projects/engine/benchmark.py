"""Timing of one config: warm-up, synchronise, median and p90, stages, memory."""

from __future__ import annotations

import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from ..modeling import StageTimer, VideoModel
from ..structures import ArraySource, Frame, FrameSource, InputError, VideoInfo, resolve_device
from ..weights import build_for_test


def measure(
    cfg: CfgNode,
    *,
    weights: str = "",
    size: tuple[int, int] = (360, 640),
    frames: int = 100,
    warm_up: int = 5,
    objects: int = 1,
    include_reading: bool = False,
    amp: bool = False,
    compiled: bool = False,
    device: str = "",
    threads: int | None = None,
) -> dict[str, Any]:
    """Time a system on a synthetic video and return the figures as plain numbers.

    Online systems are timed frame by frame; offline systems by whole videos of ``frames`` frames
    (one untimed pass over a short video warms up).

    Raises:
        InputError: the config is no VideoModel, a number out of range.
    """
    if frames < 1 or warm_up < 0 or objects < 1:
        raise InputError("frames and objects must be at least 1, warm-up at least 0")
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = resolve_device(device or cfg.MODEL.DEVICE)
    cuda = cfg.MODEL.DEVICE.startswith("cuda")
    if amp:
        cfg.MODEL.INFERENCE_DTYPE = "float16" if cuda else "bfloat16"
    if threads:
        torch.set_num_threads(threads)
    cfg.MODEL.WEIGHTS = weights or _at_hand(cfg.MODEL.WEIGHTS)
    # Random weights serve for timing.
    cfg.MODEL.ALLOW_MISSING_WEIGHTS = cfg.MODEL.ALLOW_MISSING_WEIGHTS or not cfg.MODEL.WEIGHTS
    cfg.MODEL.COMPILE = cfg.MODEL.COMPILE or compiled
    model, _ = build_for_test(cfg)
    if not isinstance(model, VideoModel):
        raise InputError(f"{cfg.MODEL.META_ARCHITECTURE} is no video system: nothing to time")
    masks = moving_boxes(size, objects)[1][0] if model.takes_masks else None
    with _video(size, frames + warm_up, objects, cfg.INPUT.FORMAT, include_reading) as source:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        timer = StageTimer(model.device)
        run = _time_online if model.online else _time_offline
        seconds, cpu = run(model, source, masks, warm_up, timer)
    per_frame = 1000 * np.asarray(seconds)
    return {
        "system": type(model).__name__,
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "size": list(size),
        "frames": frames,
        "objects": objects if model.takes_masks else None,
        "reading": include_reading,
        "weights": cfg.MODEL.WEIGHTS or "random",
        "dtype": cfg.MODEL.INFERENCE_DTYPE,
        "compiled": cfg.MODEL.COMPILE,
        "median_ms": float(np.median(per_frame)),
        "p90_ms": float(np.percentile(per_frame, 90)),
        "mean_ms": float(per_frame.mean()),
        "fps": float(1000 / per_frame.mean()),
        "cpu_ms": 1000 * cpu / len(per_frame),
        "peak_memory_mb": _peak_memory(cuda),
        "parameters": sum(p.numel() for p in model.parameters()),
        "stage_ms": {k: 1000 * v / max(len(per_frame), 1) for k, v in timer.seconds().items()},
    }


def _at_hand(weights: str) -> str:
    """The config's own weights if they lie here; "" for a download, or for a file that a training
    is yet to make."""
    here = weights.startswith("zoo://") or Path(weights).expanduser().is_file()
    return weights if here else ""


def report(figures: dict[str, Any]) -> str:
    """Return the figures as two tables for the terminal."""
    head = (
        f"{figures['system']} on {figures['device']}, {figures['size'][0]}x{figures['size'][1]}, "
        f"{figures['frames']} frames, {figures['dtype']}, {figures['threads']} threads, "
        f"reading {'on' if figures['reading'] else 'off'}, "
        f"compile {'on' if figures['compiled'] else 'off'}, weights {figures['weights']}"
    )
    keys = ("median_ms", "p90_ms", "mean_ms", "fps", "cpu_ms", "peak_memory_mb")
    main = tabulate([[figures[k] for k in keys]], headers=keys, floatfmt=".2f", tablefmt="pipe")
    total = figures["mean_ms"]
    rows = [(name, ms, 100 * ms / total) for name, ms in figures["stage_ms"].items()]
    stages = tabulate(rows, headers=("stage", "ms a frame", "%"), floatfmt=".2f", tablefmt="pipe")
    return "\n\n".join([head, main, stages] if rows else [head, main])


def moving_boxes(size: tuple[int, int], objects: int, *, frames: int = 1) -> tuple[Any, Any]:
    """Return textured frames uint8 (T, H, W, 3) and label maps uint8 (T, H, W) of moving boxes."""
    height, width = size
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (width, height))
    images = np.empty((frames, height, width, 3), np.uint8)
    labels = np.zeros((frames, height, width), np.uint8)
    colours = rng.integers(0, 255, (objects, 3))
    h, w = max(height // 4, 2), max(width // 6, 2)
    starts = rng.uniform(0, 1, (objects, 2)) * (height - h, width - w)
    for t in range(frames):
        images[t] = np.roll(background, 2 * t, 1)
        for n in range(objects):
            y = int(starts[n, 0])
            x = int((starts[n, 1] + 3 * t) % (width - w))
            images[t, y : y + h, x : x + w] = colours[n]
            labels[t, y : y + h, x : x + w] = n + 1
    return images, labels


@contextmanager
def _video(
    size: tuple[int, int], length: int, objects: int, image_format: str, reading: bool
) -> Iterator[FrameSource]:
    if not reading:
        yield ArraySource(_Repeat(size, length, objects), image_format=image_format, size=size)
        return
    from ..video import VideoFileSource, VideoWriter

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        with VideoWriter(file) as writer:
            for image in _Repeat(size, length, objects):
                writer.add(image)
        yield VideoFileSource(file, image_format=image_format)


class _Repeat:
    """A long video of few different frames."""

    def __init__(self, size: tuple[int, int], length: int, objects: int) -> None:
        self.images = moving_boxes(size, objects, frames=min(length, 16))[0]
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= self.length:
            raise IndexError(index)
        return self.images[index % len(self.images)]


def _synchronise(model: VideoModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _time_online(
    model: VideoModel, source: FrameSource, masks: Any, warm_up: int, timer: StageTimer
) -> tuple[list[float], float]:
    """Seconds of each frame after the warm-up, and the CPU seconds of all of them.

    Waiting for the decoder counts with reading on.
    """
    model.start_video(VideoInfo(source.size, None, model.task, keep_results=False))
    seconds: list[float] = []
    cpu_begin = time.process_time()
    frames = iter(source)
    _synchronise(model)
    begin = time.perf_counter()
    for frame in frames:
        counted = frame.index >= warm_up
        if frame.index == warm_up:
            cpu_begin = time.process_time()
        _step(model, frame, masks, timer if counted else None)
        _synchronise(model)
        now = time.perf_counter()
        if counted:
            seconds.append(now - begin)
        begin = now
    cpu = time.process_time() - cpu_begin
    model.finish_video()
    return seconds, cpu


def _step(model: VideoModel, frame: Frame, masks: Any, timer: StageTimer | None) -> None:
    entering = masks if frame.index == 0 else None
    if timer is None:
        model.step(frame, entering)
    else:
        with timer.active():
            model.step(frame, entering)


def _time_offline(
    model: VideoModel, source: FrameSource, masks: Any, warm_up: int, timer: StageTimer
) -> tuple[list[float], float]:
    """One pass over the first frames warms up, the second, over all later frames, is timed."""
    images = [source[i].array() for i in range(len(source))]
    warm = ArraySource(images[: max(warm_up, 1)], image_format=source.image_format)
    timed = ArraySource(images[warm_up:], image_format=source.image_format)
    entering = None if masks is None else {0: masks}
    if warm_up:
        model.run_video(warm, entering)
    _synchronise(model)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    with timer.active():
        model.run_video(timed, entering)
    _synchronise(model)
    cpu = time.process_time() - cpu_begin
    return [(time.perf_counter() - begin) / len(timed)] * len(timed), cpu


def _peak_memory(cuda: bool) -> float:
    """Peak of the GPU allocator, or of the process's resident memory, in megabytes."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
