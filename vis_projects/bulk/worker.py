"""One worker: a network that is built once, and a folder for every video that it segments.

A video is made in a hidden folder and takes its name when it is whole; ``job.json`` in it says so.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import choose_dtype, load_config
from ..plug_ins import import_packages
from ..structures import InputError
from ..structures.errors import one_line
from .inputs import VideoJob
from .manifest import DONE, FAILED

WORK, RECORD = ".work", "job.json"


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know; it travels to other processes and machines.

    Attributes:
        output: folder of all outputs, or a URL that fsspec writes to.
        config_file, weights, opts, imports, score_threshold, fps, max_frames: as on the command
            line of ``vis run``.
        threads: of torch in this worker; 0 leaves it as it is.
        digests: of config and weights, for the records.
        folder: working directory that relative paths are meant from, on another machine.
    """

    output: str
    config_file: str = ""
    weights: str = ""
    opts: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    threads: int = 0
    fps: float | None = None
    max_frames: int | None = None
    score_threshold: float | None = None
    digests: tuple[str, str] = ("", "")
    folder: str = ""


@dataclass(frozen=True)
class Report:
    """How a video went: ``done`` or ``failed``, or "" where it was stopped from outside."""

    name: str
    state: str
    frames: int = 0
    error: str = ""
    seconds: float = 0.0
    source: str = ""
    host: str = ""

    def times(self) -> dict[str, Any]:
        """What differs from run to run."""
        return {"seconds": round(self.seconds, 3), "host": self.host, "ended": round(time.time())}


class Worker:
    """Segments videos one after another.

    Raises:
        InputError: at construction: config or weights that do not fit.
    """

    def __init__(self, settings: Settings, *, device: str = "") -> None:
        import torch

        from ..video import VideoPredictor

        if settings.folder:
            os.chdir(settings.folder)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        import_packages(settings.imports)
        self.settings = settings
        self.predictor = VideoPredictor(load_settings(settings, device))
        self.predictor.require_weights()

    def run(self, job: VideoJob) -> Report:
        """Segment a video; a bad one is reported, not raised."""
        started = time.monotonic()
        source = digest_of_input(job)
        target = Path(self.settings.output) if is_local(self.settings.output) else None
        folder = (target or Path(os.environ.get("TMPDIR", "/tmp"))) / WORK / job.name
        shutil.rmtree(folder, ignore_errors=True)
        state, frames, error = FAILED, 0, ""
        try:
            outcome = self._segment(job, folder)
            if outcome.interrupted:
                shutil.rmtree(folder, ignore_errors=True)
                return Report(job.name, "")
            frames, error = outcome.frames, outcome.missing
            state = FAILED if error else DONE
        except Exception as fault:
            error = one_line(fault) or f"{type(fault).__name__}: {' '.join(str(fault).split())}"
        report = Report(
            job.name, state, frames, error, time.monotonic() - started, source, socket.gethostname()
        )
        if folder.is_dir():
            self._publish(job, folder, report)
        return report

    def _segment(self, job: VideoJob, folder: Path) -> Any:
        from ..video import open_source
        from ..video.demo_output import run_demo

        if job.mask and not Path(job.mask).expanduser().is_file():
            raise InputError(f"{job.mask}: no such mask file")
        source = open_source(
            job.input,
            image_format=self.predictor.cfg.INPUT.FORMAT,
            exclude=[job.mask] if job.mask else (),
        )
        try:
            return run_demo(
                self.predictor,
                source,
                folder,
                masks=job.mask or None,
                fps=self.settings.fps,
                max_frames=self.settings.max_frames,
                score_threshold=self.settings.score_threshold,
            )
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _publish(self, job: VideoJob, folder: Path, report: Report) -> None:
        """Give the folder its name; from then on the video is finished."""
        record = {**asdict(job), "state": report.state, "frames": report.frames}
        config, weights = self.settings.digests
        record |= {"error": report.error, "config": config, "weights": weights}
        record |= {"source": report.source}
        (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False))
        if not is_local(self.settings.output):
            upload(folder, f"{self.settings.output.rstrip('/')}/{job.name}")
            shutil.rmtree(folder, ignore_errors=True)
            return
        final = Path(self.settings.output) / job.name
        old = folder.with_name(f"{job.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(folder, final)
        shutil.rmtree(old, ignore_errors=True)


def load_settings(settings: Settings, device: str = "") -> Any:
    """Return the config that the settings name, on a device.

    Raises:
        InputError: neither a config nor weights that carry one, or they do not fit.
    """
    from ..weights import config_of_checkpoint

    opts = [*settings.opts, *(["MODEL.DEVICE", device] if device else [])]
    if settings.config_file:
        cfg = load_config(settings.config_file, opts)
    elif settings.weights:
        cfg = config_of_checkpoint(settings.weights, opts)
    else:
        raise InputError("give --config-file, or --weights that carry their config")
    if settings.weights:
        cfg.MODEL.WEIGHTS = settings.weights
    choose_dtype(cfg, settings.opts)
    return cfg


def is_local(output: str) -> bool:
    return "://" not in output


def upload(folder: Path, url: str) -> None:
    """Copy a finished folder to a place of fsspec; the record comes last."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    files = sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.name == RECORD)
    for file in files:
        place = f"{path}/{file.relative_to(folder).as_posix()}"
        system.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        system.put_file(str(file), place)


def digest_of_input(job: VideoJob) -> str:
    """Return a digest of a video's files by name, size and time; of a URL, its text."""
    import hashlib

    digest = hashlib.sha256()
    for given in filter(None, (job.input, job.mask)):
        path = Path(given).expanduser()
        files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
        digest.update(given.encode("utf-8", "surrogateescape"))
        for file in files:
            state = file.stat()
            digest.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
