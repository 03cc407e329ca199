"""Where CI could install a browser (.ci/run sets VIS_BROWSER), no test of the page is skipped."""

from __future__ import annotations

import importlib.util
import os

import pytest
from browsing import BROWSER, DRIVER


@pytest.mark.skipif(os.environ.get("VIS_BROWSER") != "required", reason="CI installed no browser")
def test_nothing_is_missing_for_the_tests_of_the_page() -> None:
    assert BROWSER and DRIVER
    for package in ("fastapi", "selenium"):
        assert importlib.util.find_spec(package) is not None, package
