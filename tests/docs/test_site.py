"""The documentation site builds strictly and fetches nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import BROWSER, DRIVER, browsers, misfits

pytest.importorskip("mkdocs", reason="the extra [docs] is not installed")
pytest.importorskip("mkdocstrings", reason="the extra [docs] is not installed")
ROOT = Path(__file__).resolve().parents[2]
_FETCHING = re.compile(
    r"<(?:script|img|iframe|source|video)[^>]*\ssrc=[\"'](https?:)?//|"
    r"<link[^>]*rel=[\"']?(?:stylesheet|preload|preconnect)[^>]*href=[\"'](https?:)?//|"
    r"@import\s+url\((https?:)?//"
)


browser = pytest.fixture(browsers)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_strictly(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in [*pages, *site.rglob("*.css")]:
        found = _FETCHING.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name} fetches {found[0]}"
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert "Segment a video, yielding one FrameResult per frame" in api
    assert "<p>::</p>" not in api


@pytest.mark.skipif(DRIVER is None or BROWSER is None, reason="no browser")
def test_every_page_fits_into_the_window(site: Path, browser) -> None:
    for page in sorted(site.rglob("index.html")):
        assert misfits(browser, page, 360) == {}, page.parent.name


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"(\w+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == named
