"""`fwt reproduce` on the recipes' models with few strings and few updates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fwt.reproduce import cells
from fwt.reproduce.run import cells_of
from tests.cli_tools import Done, fwt

SHORT = {
    "task.train": 256, "task.val": 64, "task.test": 64, "train.batch_size": 32, "train.steps": 4,
}  # fmt: skip


def tiny_cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cells of retrieval with `SHORT` above the recipes: what a fixture yields from."""
    cells_of.cache_clear()
    monkeypatch.setitem(cells.DATA, "retrieval", SHORT)
    monkeypatch.setitem(cells.QUICK, "retrieval", SHORT)
    monkeypatch.setenv("FWT_DEVICE", "cpu")
    yield
    cells_of.cache_clear()


def places(folder: Path) -> tuple[object, ...]:
    return "--out", folder / "out", "--runs-dir", folder / "runs"


def here(folder: Path, *more: object) -> Done:
    """Cells of R = 20 on torch, in this process."""
    workers = () if "--workers" in more else ("--workers", 1)
    arguments = ("--backend", "torch", "--size", 20, *workers, *places(folder), *more)
    return fwt("reproduce", "retrieval", *arguments)
