"""Many videos: what is to be done, by which engine, and what became of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..structures import InputError
from ..structures.writable import check_writable
from .inputs import VideoJob, list_videos, make_jobs
from .manifest import DONE, FAILED, RUNNING, Entry, Manifest
from .worker import RECORD, WORK, Report, Settings, digest_of_input, is_local, load_settings


class Engine(Protocol):
    """Does jobs somewhere."""

    def run(
        self,
        jobs: Iterable[VideoJob],
        on_start: Callable[[VideoJob], None],
        on_report: Callable[[Report], None],
    ) -> None: ...


@dataclass
class Plan:
    """What a call will do.

    Attributes:
        jobs: of this shard, in order; ``todo`` of them are not finished.
        all_names: of all shards.
    """

    jobs: list[VideoJob]
    todo: list[VideoJob]
    all_names: list[str]
    settings: Settings
    manifest: Manifest
    adopted: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Videos by state: ``done``, ``failed``, ``missing``."""
        states = [self.manifest.entries.get(job.name) for job in self.jobs]
        found = {DONE: 0, FAILED: 0, "missing": 0}
        for entry in states:
            state = entry.state if entry is not None else ""
            found[state if state in (DONE, FAILED) else "missing"] += 1
        return found

    def failures(self) -> list[Entry]:
        entries = (self.manifest.entries.get(job.name) for job in self.jobs)
        return [e for e in entries if e is not None and e.state == FAILED]


def make_plan(
    inputs: Sequence[str],
    settings: Settings,
    *,
    mask: str = "",
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Plan:
    """List the videos and compare with what lies in the output folder; nothing is written.

    Args:
        mask: pattern of mask files, see ``make_jobs``.
        retry_failed: only the videos that failed.
        overwrite: results of another config or other weights are made again, not refused.

    Raises:
        InputError: inputs, config or weights that are not there; an output folder that holds
            something else, or results of another config or other weights.
    """
    cfg = load_settings(settings)
    settings = replace(settings, digests=digests_of(cfg))
    folder = manifest_folder(settings.output)
    _check_folder(folder)
    manifest = Manifest(folder, shard)
    manifest.load()
    known = {entry.input: name for name, entry in manifest.entries.items()}
    everything = make_jobs(list_videos(inputs), mask=mask, known=known)
    jobs = everything[shard[0] :: shard[1]]
    plan = Plan(jobs, [], [job.name for job in everything], settings, manifest)
    for job in jobs:
        entry = manifest.entries.get(job.name)
        if entry is None or entry.state != DONE:
            found = _finished(settings, job)  # the driver was killed before it noted it
            if found is not None and (entry is None or found.state == DONE):
                entry = manifest.entries[job.name] = found
                plan.adopted.append(job.name)
        if entry is not None and entry.state == DONE:
            if entry.made_of[:2] != settings.digests and not overwrite:
                raise InputError(
                    f"{settings.output}: {job.name} was made with another config or other weights: "
                    "name another --output, or --overwrite makes it again"
                )
            if entry.made_of == (*settings.digests, digest_of_input(job)):
                continue
        if not retry_failed or (entry is not None and entry.state == FAILED):
            plan.todo.append(job)
    return plan


def run_plan(plan: Plan, engine: Engine, on_report: Callable[[Report], None]) -> None:
    """Do what a plan says and keep the manifest.

    Raises:
        KeyboardInterrupt: stopped; what is finished stays, the same call continues.
    """
    manifest, names = plan.manifest, [job.name for job in plan.jobs]
    manifest.folder.mkdir(parents=True, exist_ok=True)
    by_name = {job.name: job for job in plan.jobs}

    def entry(name: str, state: str, report: Report | None = None) -> Entry:
        config, weights = plan.settings.digests
        job = by_name[name]
        source = report.source if report and report.source else digest_of_input(job)
        frames, error = (report.frames, report.error) if report else (0, "")
        return Entry(name, job.input, state, frames, error, config, weights, source)

    def reported(report: Report) -> None:
        manifest.add(entry(report.name, report.state, report), report.times())
        on_report(report)

    with _alone(manifest.file):
        manifest.compact(names)
        for job in plan.todo:
            shutil.rmtree(manifest.folder / WORK / job.name, ignore_errors=True)
        try:
            if plan.todo:
                engine.run(
                    plan.todo,
                    lambda job: manifest.add(entry(job.name, RUNNING)),
                    reported,
                )
        finally:
            for name, found in list(manifest.entries.items()):
                if found.state == RUNNING and name in by_name:
                    del manifest.entries[name]
            manifest.compact(names)
            for file in (manifest.folder / WORK,):
                if file.is_dir() and not any(file.iterdir()):
                    file.rmdir()
        if len(plan.all_names) > len(names):
            manifest.join_shards(plan.all_names)


def digests_of(cfg: Any) -> tuple[str, str]:
    """Digests of what results depend on: the options without the device, the weights' bytes."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = weights = ""
    if cfg.MODEL.WEIGHTS:
        from ..engine.inference import fingerprint

        weights = fingerprint(cfg)[:16]
    text = cfg.MODEL.dump() + cfg.INPUT.dump() + cfg.TEST.dump()
    return hashlib.sha256(text.encode()).hexdigest()[:16], weights


def manifest_folder(output: str) -> Path:
    """Where the manifest lies: in the output folder, or for a URL in a folder of its name here."""
    if is_local(output):
        return Path(output).expanduser()
    from vis_metrics.files.names import safe_name

    return Path(f"manifest-{safe_name(output)}")


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    check_writable(folder, "--output")
    if not folder.exists():
        return
    ours = any(folder.glob("manifest*.jsonl")) or any(folder.glob(f"*/{RECORD}"))
    if not ours and any(p for p in folder.iterdir() if p.name != WORK):
        raise InputError(f"{folder}: this folder is not empty and no earlier run; name another")


def _finished(settings: Settings, job: VideoJob) -> Entry | None:
    """The entry of a video whose folder is complete, None if it is not."""
    if not is_local(settings.output):
        return None
    try:
        record = json.loads((Path(settings.output) / job.name / RECORD).read_text())
        keys = ("name", "input", "state", "frames", "error", "config", "weights", "source")
        found = Entry(**{key: record[key] for key in keys})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.input == job.input else None


@contextmanager
def _alone(file: Path) -> Any:
    """Keep a second run out of the same manifest, where the file system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = file.with_name(f".{file.name}.lock")
    handle = os.open(lock, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"{file}: another run is working on it; wait, or stop it first") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)
