"""The trained networks in `checkpoints/` answer on every backend as when they were added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tasks
from backends.contract import Backend
from fwcore.runs import find_checkpoint

FOLDER = Path(__file__).parents[1] / "checkpoints"

# folder -> dataset that needs no download (None: the checkpoint's own), wrong of the first 1,000
WRONG: dict[str, tuple[str | None, int]] = {
    "retrieval-fast-weights-r20": (None, 5),
    "mnist-glimpse-fast-weights-r50": ("mnist-subset", 17),
}


def test_every_folder_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == WRONG.keys()


@pytest.mark.parametrize("name", WRONG)
def test_answers(name: str, backend: Backend) -> None:
    dataset, expected = WRONG[name]
    found = find_checkpoint(FOLDER / name)
    options = dict(found.spec.task) | ({"dataset": dataset} if dataset else {})
    split = tasks.load(tasks.parse(options)).split("test")
    scores = backend.compile(found.spec.model, found.params).forward(split.inputs[:1000])
    wrong = int(np.sum(scores.argmax(1) != split.targets[:1000]))
    assert wrong == expected


def test_together_they_are_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size < 20 * 2**20
