"""A real browser for tests: the system's Chromium, driven by playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (or its path in CHROMIUM)"
)

# Where `playwright install firefox` puts it on Linux.
_FIREFOX = any((Path.home() / ".cache" / "ms-playwright").glob("firefox-*"))
BROWSERS = ["chromium", "firefox"] if _FIREFOX else ["chromium"]


@contextmanager
def started_browser(name: str = "chromium") -> Iterator[Any]:
    """Yield one of the browsers, without a window; skip the test without playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with api.sync_playwright() as driver:
        if name == "firefox":
            browser = driver.firefox.launch()
        else:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
