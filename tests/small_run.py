"""A run of three units: its spec and parameters, a stand-in for its model, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.params import Param, initialise
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.checkpoint import Best, Progress
from fwt.fwcore.storage.runs import RunFolder

SPEC = RunSpec.parse(
    {
        "recipe": "a test",
        "task": {"kind": "retrieval", "pairs": 2},
        "model": {
            "encoder": {"kind": "embedding", "symbols": 37, "size": 5},
            "core": {
                "kind": "fast-weights",
                "size": 3,
                "store": [1, 2],
                "integrate": [2],
                "trained": True,  # two parameters of shape ()
            },
            "head": {"classes": 10, "hidden": 4},
        },
        "train": {"steps": 3, "seed": 9},
    },
    "test",
)
TABLE = model.parameters(SPEC.model)


class Model:
    """What a run folder asks of a model; its numbers are those of a seed."""

    def __init__(self, seed: int = 0, table: Sequence[Param] = TABLE) -> None:
        self.params = initialise(table, seed)
        self.moments = {
            f"{kind}{name}": array + at
            for at, kind in enumerate(checkpoint.MOMENTS)
            for name, array in self.params.items()
        }
        self.step = -1

    def parameters(self) -> dict[str, np.ndarray]:
        return dict(self.params)

    def load_parameters(self, params: Mapping[str, np.ndarray]) -> None:
        self.params = dict(params)

    def optimizer_state(self) -> dict[str, np.ndarray]:
        return dict(self.moments)

    def load_optimizer_state(self, moments: Mapping[str, np.ndarray], step: int) -> None:
        self.moments, self.step = dict(moments), step


def progress(step: int, best: int | None = None) -> Progress:
    at = None if best is None else Best(step=best, error_pct=10.0, loss=1.0)
    return Progress(step=step, best=at)


def save(folder: RunFolder, step: int, best: int | None = None, keep: int = 2) -> None:
    report = SPEC.report.model_copy(update={"keep": keep})
    spec = SPEC.model_copy(update={"report": report})
    folder.save(Model(step), spec, progress(step, best))


def saved_steps(folder: RunFolder) -> list[int]:
    """Steps of the checkpoints that are there, with nothing else beside them."""
    found = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    return [int(name.removeprefix("step-")) for name in found]


def line(step: int, split: str = "train") -> dict[str, Any]:
    return {"step": step, "split": split, "loss": 0.5}
