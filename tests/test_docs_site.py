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
PAGES = ("index", "equations", "inspect", "api", "api/models", "api/backends")


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
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
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
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix("") for path in docs.rglob("*.md")}
    where = f"{site.as_uri()}/"
    assert {Path(link.removeprefix(where)).with_suffix("") for link in links} == pages - {
        Path("index")
    }


def test_the_index_shows_a_picture_and_how_to_install(browser: Any, site: Path) -> None:
    with visit(browser, (site / "index.html").as_uri()) as seen:
        picture = seen.page.locator("article img").first
        assert picture.evaluate("image => image.naturalWidth") > 300
        assert "pip install '.[plots]'" in seen.page.locator("#install").inner_text()


def test_no_page_of_the_reference_is_endless(browser: Any, site: Path) -> None:
    for path in sorted((site / "api").glob("*.html")):
        with visit(browser, path.as_uri()) as seen:
            height = seen.page.evaluate("document.documentElement.scrollHeight")
        assert 500 < height < 25_000, path


def test_the_reference_has_signatures_and_options(browser: Any, site: Path) -> None:
    with visit(browser, (site / "api" / "backends.html").as_uri()) as seen:
        compiled = seen.page.locator(r"[id='fwt.backends.contract.Backend.compile']").inner_text()
        assert "spec: ModelSpec" in compiled
    with visit(browser, (site / "api" / "cells.html").as_uri()) as seen:
        options = seen.page.locator(
            "dl:has([id='fwt.fwcore.cells.fast_weights.Spec'])"
        ).inner_text()
        assert "decay (float)" in options
        assert "what is left of A after a time step" in options
