"""Makes the folder of the tests of bulk runs: 24 videos, some of them bad, and their masks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
from PIL import Image

from vis_projects.bulk import Settings, Worker, make_plan, run_plan
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoWriter

CONFIG = "configs/copy_first/davis2016.yaml"  # follows given masks; nothing to train
BAD = {"cut", "zero", "none"}


def make_videos(root: Path, *, good: int = 21, frames: int = 4) -> list[str]:
    """Write ``in/``: mp4s and frame folders, two of one name, a truncated one, one of 0 bytes, an
    empty folder; and ``masks/{stem}.png``. Returns the inputs of the command line."""
    images, labels = moving_boxes((48, 64), 2, frames=frames)
    (root / "in/more").mkdir(parents=True)
    (root / "masks").mkdir()
    stems = [f"v{i:02d}" for i in range(good - 2)] + ["twin"]
    for i, stem in enumerate(stems):
        if i % 3 == 2:
            (root / "in" / stem).mkdir()
            for t, image in enumerate(images):
                cv2.imwrite(str(root / "in" / stem / f"{t}.jpg"), image)
        else:
            write_video(root / "in" / f"{stem}.mp4", images)
    write_video(root / "in/more/twin.mp4", images)
    whole = (root / "in/v00.mp4").read_bytes()
    (root / "in/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "in/zero.mp4").write_bytes(b"")
    (root / "in/none").mkdir()
    for stem in (*stems, *BAD):
        Image.fromarray(labels[0]).save(root / "masks" / f"{stem}.png")
    listed = [f"in/{p.name}" for p in sorted((root / "in").iterdir()) if p.name != "more"]
    (root / "list.txt").write_text("\n".join([*listed, "in/more/twin.mp4"]) + "\n")
    return ["@list.txt"]


def write_video(file: Path, images) -> None:
    with VideoWriter(file) as writer:
        for image in images:
            writer.add(image)


class Here:
    """An engine in this process: what the others have to equal."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def run(self, jobs, on_start, on_report) -> None:
        for job in jobs:
            on_start(job)
            on_report(self.worker.run(job))


def settings_for(output: str) -> Settings:
    return Settings(output=output, config_file=CONFIG, opts=("MODEL.DEVICE", "cpu"), threads=1)


def plan_for(output: str):
    return make_plan(["@list.txt"], settings_for(output), mask="masks/{stem}.png")


def run_here(output: str, worker: Worker | None = None) -> None:
    """Do the list in this process."""
    plan = plan_for(output)
    worker = worker or Worker(plan.settings)
    worker.settings = plan.settings
    run_plan(plan, Here(worker), lambda report: None)


def finished(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished video's record."""
    records = (root / "out").glob("*/job.json")
    return {r.parent.name: (r.stat().st_ino, r.stat().st_mtime_ns) for r in records}


def command(*words: str, output: str = "out") -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "vis_command", "run", "@list.txt"),
        *("--config-file", CONFIG, "--first-mask", "masks/{stem}.png", "--output", output),
        *("--device", "cpu", "--threads", "1", *words),
    ]


def vis_run(root: Path, *words: str, output: str = "out") -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words, output=output), cwd=root, capture_output=True, text=True, check=False
    )


def states(root: Path, output: str = "out") -> dict[str, tuple[str, int, str]]:
    rows = (root / output / "manifest.jsonl").read_text().splitlines()
    found = {r["name"]: (r["state"], r["frames"], r["error"]) for r in map(json.loads, rows)}
    assert len(found) == len(rows), "one line a video"
    return found


def contents(root: Path, output: str = "out") -> dict[str, str]:
    """Digests of masks and results by path."""
    files = [f for f in (root / output).rglob("*") if f.suffix in (".png", ".json")]
    files = [f for f in files if not f.name.startswith(".")]
    return {
        str(f.relative_to(root / output)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def drive(output: str) -> None:
    """Run what is left of the videos below ``output``, in a process of its own."""
    run_here(output, Worker(settings_for(output)))
