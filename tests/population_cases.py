"""Members of a population: their specs, data, weights and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fwt.backends.contract import Population, compile_population
from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import initialise
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import Split
from tests.cases import Engine

SYMBOLS, STEPS = 9, 6
FAST = {"kind": "fast-weights", "size": 6}


def run_spec(
    seed: int,
    lr: float,
    core: dict[str, Any],
    dtype: str = "float32",
    steps: int = 100,
    **more: Any,
) -> RunSpec:
    return RunSpec.parse(
        {
            "task": {"kind": "retrieval"},
            "model": {
                "encoder": {"kind": "embedding", "symbols": SYMBOLS, "size": 9},
                "core": core,
                "head": {"hidden": 7, "classes": 4},
            },
            "train": {
                "batch_size": 16,
                "lr": lr,
                "schedule": "cosine",
                "clip": 0.5,
                "weight_decay": 0.1,
                "dropout": 0.1,
                "head_dropout": 0.2,
                "steps": steps,
                "seed": seed,
                "dtype": dtype,
                **more,
            },
            "report": {"log_every": 7, "eval_every": 40, "save_every": 30, "keep": 9},
        },
        "test",
    )


def split(seed: int, count: int) -> Split:
    """The answer is the first symbol modulo 4, so that there is something to learn."""
    inputs = np.random.default_rng(seed).integers(0, SYMBOLS, (count, STEPS))
    return Split(inputs, inputs[:, 0] % 4)


def weights_of(spec: RunSpec) -> dict[str, NumpyArray]:
    kind = np.float64 if spec.train.dtype == "float64" else np.float32
    return initialise(model.parameters(spec.model), spec.train.seed, kind)


def population(on: Engine, specs: Sequence[RunSpec], memory: str = "auto") -> Population:
    device = "cpu" if on.dtype == "float64" else "auto"
    return compile_population(
        on.backend,
        [spec.model for spec in specs],
        [weights_of(spec) for spec in specs],
        device=device,
        dtype=on.dtype,
        memory=memory,
    )


def folders_of(root: Path, specs: Sequence[RunSpec]) -> list[RunFolder]:
    return [RunFolder.create(root / str(number), spec) for number, spec in enumerate(specs)]
