"""Checkpoints of every core with random weights, for tests of other programs' layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.params import Param
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, layouts
from fwt.fwcore.storage.checkpoint import Checkpoint, Progress

INPUT, SIZE = 5, 4
INPUTS = np.random.default_rng(0).integers(0, 37, (6, 7))
CORES: dict[str, dict[str, Any]] = {
    "fast-weights": {"kind": "fast-weights"},
    "fast-weights-trained": {"kind": "fast-weights", "trained": True, "integrate": [1]},
    "rnn": {"kind": "rnn"},
    "irnn": {"kind": "rnn", "activation": "relu", "recurrent_init": "identity"},
    "rnn-layer": {"kind": "rnn", "norm": "layer"},
    "lstm": {"kind": "lstm"},
    "lstm-layer": {"kind": "lstm", "norm": "layer"},
    "gru": {"kind": "gru"},
    "alstm": {"kind": "alstm"},
    "convnet": {"kind": "convnet", "steps": 7},
}


def spec_of(core: str) -> RunSpec:
    data = {
        "task": {"kind": "retrieval", "pairs": 2, "train": 64, "val": 32, "test": 32},
        "model": {
            "encoder": {
                "kind": "embedding",
                "symbols": 37,
                "size": 49 if core == "convnet" else INPUT,
            },
            "core": {"size": SIZE, **CORES[core]},
            "head": {"classes": 10, "hidden": 6},
        },
        "train": {"steps": 3},
    }
    return RunSpec.parse(data, "test")


def noise(table: list[Param], seed: int) -> dict[str, np.ndarray]:
    """Random numbers everywhere, biases too, so that no mistake hides behind a zero."""
    rng = np.random.default_rng(seed)
    return {p.name: rng.normal(size=p.shape).astype(np.float32) for p in table}


def made(core: str) -> Checkpoint:
    spec = spec_of(core)
    table = model.parameters(spec.model)
    moments = {
        f"{kind}{name}": array
        for at, kind in enumerate(checkpoint.MOMENTS)
        for name, array in noise(table, at + 1).items()
    }
    return Checkpoint(spec, noise(table, 0), moments, Progress(step=3), Path("made"))


def torch_names(core: str) -> dict[str, np.ndarray]:
    found = made(core)
    table = model.parameters(found.spec.model)
    return layouts.export(table, found.spec.model.core.kind, found.params, "torch")


def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What makes arrays the same: type, shape and bytes by name."""
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
