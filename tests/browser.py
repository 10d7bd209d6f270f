"""A real browser for tests: a page that counts what it fetches and what it complains about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

REQUIRED = "FWT_REQUIRE_BROWSER"  # set to 1, a missing browser is a failure, not a skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

PHONE, DESKTOP = (390, 844), (1280, 900)  # width, height in CSS pixels


@dataclass
class Seen:
    """An open page and what happened on it.

    Attributes:
        page: Playwright's.
        fetched: addresses asked for, those within the page (`data:`, `blob:`) left out.
        complaints: errors and warnings of its console, and exceptions nobody caught.
    """

    page: Any
    fetched: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


def _missing(reason: str) -> None:
    if os.environ.get(REQUIRED, "0") not in ("", "0"):
        pytest.fail(f"{REQUIRED} is set, but: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    """Chromium without a window; skipped with its reason where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _missing(f"no browser on the PATH (looked for {', '.join(NAMES)})")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        _missing(f"{error}; pip install 'fwt[dev]'")
    with sync_playwright() as playwright:
        # without its sandbox, which cannot be had by root; the pages are our own
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def visit(browser: Any, address: str, size: tuple[int, int] = DESKTOP) -> Iterator[Seen]:
    """Open a page in a window of its own, and close it.

    Args:
        browser: the fixture.
        address: a URL; of a file, `path.as_uri()`.
        size: of the window, width and height.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    seen = Seen(context.new_page())

    def note(request: Any) -> None:
        if not request.url.startswith(("data:", "blob:", address)):
            seen.fetched.append(request.url)

    def hear(message: Any) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(message.text)

    seen.page.on("request", note)
    seen.page.on("console", hear)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.goto(address)
    yield seen
    context.close()
