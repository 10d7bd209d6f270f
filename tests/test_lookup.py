"""Rows of a table kept apart from their numbers: the same array, with products made once a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.backends.contract import Backend
from fwt.fwcore import layers, model
from fwt.fwcore.lookup import LookedUp, dense
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases
from tests.cases import Engine
from tests.tolerances import assert_close

ROWS = np.array([[3, 0, 3, 6], [1, 1, 5, 2], [0, 6, 4, 3]])


def spec_with(encoder: dict[str, Any], core: dict[str, Any]) -> ModelSpec:
    return ModelSpec.parse(
        {"encoder": encoder, "core": {"size": 4, **core}, "head": {"hidden": 0, "classes": 3}},
        "test",
    )


class Counting:
    """The operations of a test: how many rows were multiplied is seen from what is taken."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, ...]] = []

    def take(self, table: Any, rows: Any) -> Any:
        self.taken.append(table.shape)
        return table[rows]

    def swapaxes(self, x: Any, first: int, second: int) -> Any:
        return np.swapaxes(x, first, second)


def test_it_is_the_array_of_its_rows() -> None:
    ops, table = Counting(), cases.noise(0, 7, 5)
    x = LookedUp(ops, table, ROWS)
    array, weights = table[ROWS], cases.noise(1, 5, 2)
    assert x.shape == array.shape
    assert np.array_equal(dense(x), array)
    assert np.array_equal(dense(x.swapped()), array.swapaxes(0, 1))
    np.testing.assert_allclose(x @ weights, array @ weights, rtol=1e-14)
    np.testing.assert_allclose(x.swapped() @ weights, array.swapaxes(0, 1) @ weights, rtol=1e-14)
    assert ops.taken[-2:] == [(7, 2), (7, 2)]  # products of the table, not of the sequences


def test_an_array_is_left_as_it_is() -> None:
    array = cases.noise(0, 2, 3)
    assert dense(array) is array


CORES: list[dict[str, Any]] = [
    {"kind": "fast-weights", "inner_steps": 1},
    {"kind": "fast-weights", "inner_steps": 1, "integrate": (1, 3)},
    {"kind": "lstm"},
    {"kind": "rnn"},
    {"kind": "gru", "norm": "layer"},
]


@pytest.mark.parametrize("core", CORES, ids=lambda core: "-".join(map(str, core.values())))
@pytest.mark.parametrize(
    "encoder",
    [{"kind": "embedding", "symbols": 7, "size": 5}, {"kind": "one-hot", "symbols": 7}],
    ids=lambda encoder: encoder["kind"],
)
def test_a_network_is_the_one_of_the_whole_array(
    backend: Backend, encoder: dict[str, Any], core: dict[str, Any], monkeypatch: Any
) -> None:
    """Scores and every gradient, the array multiplied at once and row by row of the table."""
    engine = Engine(backend, "float64")
    spec = spec_with(encoder, core)
    params, targets = cases.params_of(spec), np.array([2, 0, 1])
    trains = engine.name in backends.TRAINING_ORDER

    def found() -> dict[str, NumpyArray]:
        compiled = engine.compile(spec, params)
        gradients = compiled.gradients(ROWS, targets)[1] if trains else {}
        return {"scores": compiled.forward(ROWS), **gradients}

    apart = found()
    encode = layers.encode
    monkeypatch.setattr(model.layers, "encode", lambda *given: dense(encode(*given)))
    for name, want in found().items():
        quantity = "outputs" if name == "scores" else "gradients"
        assert_close(name, want, apart[name], quantity, "float64", "self")
