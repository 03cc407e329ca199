"""The documentation site builds strictly and fetches nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra [docs] is not installed")
pytest.importorskip("mkdocstrings", reason="the extra [docs] is not installed")
ROOT = Path(__file__).resolve().parents[2]
_FETCHING = re.compile(
    r"<(?:script|img|iframe|source|video)[^>]*\ssrc=[\"'](https?:)?//|"
    r"<link[^>]*rel=[\"']?(?:stylesheet|preload|preconnect)[^>]*href=[\"'](https?:)?//|"
    r"@import\s+url\((https?:)?//"
)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 12
    for page in [*pages, *(tmp_path / "site").rglob("*.css")]:
        found = _FETCHING.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name} fetches {found[0]}"
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "Segment a video, yielding one FrameResult per frame" in api


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"(\w+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == named
