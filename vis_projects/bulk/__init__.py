"""Thousands of videos: a job list, engines that do it, and a manifest of what became of it."""

from .driver import Plan, make_plan, run_plan
from .inputs import VideoJob, is_single, list_videos, make_jobs
from .local_engine import LocalEngine
from .manifest import Entry, Manifest, read_entries
from .shards import parse_shard
from .worker import Report, Settings, Worker

__all__ = [
    "Entry",
    "LocalEngine",
    "Manifest",
    "Plan",
    "Report",
    "Settings",
    "VideoJob",
    "Worker",
    "is_single",
    "list_videos",
    "make_jobs",
    "make_plan",
    "parse_shard",
    "read_entries",
    "run_plan",
]
