"""The site of `make docs` in a browser: no warning, nothing fetched, no wider than the window."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import DESKTOP, PHONE, visit
from tests.cli_tools import ROOT

SITE = ROOT / "build" / "docs"  # that of `make docs`, so that what is there is not built again
PAGES = ("index", "equations", "inspect", "api")


@pytest.fixture(scope="module", name="site")
def _site() -> Path:
    flags = ["-q", "-n", "-W", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, "docs", str(SITE)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return SITE


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fetches_nothing_and_fits(
    browser: Any, site: Path, name: str, size: tuple[int, int]
) -> None:
    with visit(browser, (site / f"{name}.html").as_uri(), size) as seen:
        assert [url for url in seen.fetched if not url.startswith(site.as_uri())] == []
        assert seen.complaints == []
        assert seen.overflow() == 0
        broken = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        assert seen.page.evaluate(broken) == []


def test_no_page_names_a_file_elsewhere(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert len(pages) > 20
    foreign = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]+https?://")
    styles = re.compile(r"@import|url\(['\"]?https?:")
    assert [page.name for page in pages if foreign.search(page.read_text("utf-8"))] == []
    sheets = list(site.rglob("*.css"))
    assert [sheet.name for sheet in sheets if styles.search(sheet.read_text("utf-8"))] == []


def test_equations_are_drawn_and_can_be_read_aloud(browser: Any, site: Path) -> None:
    with visit(browser, (site / "equations.html").as_uri()) as seen:
        first = seen.page.locator("#fast-weights .formula").first
        assert first.get_attribute("aria-label").startswith(r"A(t) = \lambda A(t-1) + \eta")
        box = first.bounding_box()
        assert 150 < box["width"] < 700
        assert 15 < box["height"] < 60
        assert seen.page.locator(".formula path").count() > 100


def test_the_index_leads_to_every_page(browser: Any, site: Path) -> None:
    with visit(browser, (site / "index.html").as_uri()) as seen:
        links = seen.page.locator(".sidebar-tree a").evaluate_all("all => all.map(a => a.href)")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {Path(link).stem for link in links} == pages


def test_the_reference_has_signatures_and_options(browser: Any, site: Path) -> None:
    with visit(browser, (site / "api.html").as_uri()) as seen:
        compiled = seen.page.locator(r"[id='backends.contract.Backend.compile']").inner_text()
        assert "spec: ModelSpec" in compiled
        options = seen.page.locator("dl:has([id='fwcore.cells.fast_weights.Spec'])").inner_text()
        assert "decay (float)" in options
        assert "what is left of A after a time step" in options
