"""The ConvNet's first layer on MLX's CPU in place of eq. 1: outputs, ties and every gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.cells import convnet as equations
from fwt.fwcore.ops import NumpyArray
from tests import cases
from tests.conftest import engine, need
from tests.not_finite import WRONG
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("eager")

STEPS = 3
# (S pixels along a side, R, N glimpses, in a piece): one window; one piece, whole pieces, a rest
SHAPES = [(3, 4, 5, 2), (5, 1, 1, 1), (7, 8, 6, 3), (7, 13, 7, 100), (9, 2, 5, 4), (10, 3, 4, 3)]
NAMES = ("pictures", "K1", "b1")


def layers(side: int, size: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Eq. 1 as it is written and as it runs, of pictures, K1 and b1."""
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels import convnet
    from fwt.backends.mlx.ops import MlxOps

    monkeypatch.setattr(convnet, "PIECE", piece * side**2 * size)

    def call(layer: Any) -> Any:
        def run(pictures: Any, weight: Any, bias: Any) -> Any:
            p = {"core.conv1.weight": weight.reshape(-1, 1, 3, 3), "core.conv1.bias": bias}
            return layer(MlxOps(pictures.dtype), p, pictures[None])

        return run

    mx.set_default_device(mx.cpu)
    return [call(equations.first_layer), call(convnet._first_layer)]


def results(layer: Any, given: list[NumpyArray], dtype: str) -> dict[str, NumpyArray]:
    """Outputs, and gradients of a weighted sum of them."""
    import mlx.core as mx

    arrays = [mx.array(array, dtype=getattr(mx, dtype)) for array in given]

    def measure(*arrays: Any) -> Any:
        out = layer(*arrays)
        weights = mx.arange(out.size).reshape(out.shape) % 5 - 1
        return mx.sum(out * weights.astype(out.dtype)), out

    (_, out), slopes = mx.value_and_grad(measure, argnums=(0, 1, 2))(*arrays)
    named = {"out": out, **{f"gradient of {n}": a for n, a in zip(NAMES, slopes, strict=True)}}
    return {name: np.array(array) for name, array in named.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("side", "size", "count", "piece"), SHAPES)
def test_it_holds_the_equations(
    side: int, size: int, count: int, piece: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [cases.noise(i, *s) for i, s in enumerate([(count, side**2), (size, 9), (size,)])]
    given[2] += 2  # every feature passes gradients down
    want, got = (results(layer, given, dtype) for layer in layers(side, size, piece, monkeypatch))
    for name, array in want.items():
        assert np.abs(array).max() > 0, name
        quantity = "gradients" if name.startswith("gradient") else "outputs"
        assert_close(name, array, got[name], quantity, dtype, "self")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("side", "size", "count", "piece"), SHAPES)
def test_of_equals_the_same_one_wins(
    side: int, size: int, count: int, piece: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: a black picture and a white one, and pictures of whole numbers."""
    drawn = np.random.default_rng(side + size)
    pictures = drawn.integers(0, 2, (count + 2, side**2)) * drawn.integers(0, 2, side**2)
    pictures[0], pictures[-1] = 0, 1
    given = [pictures, drawn.integers(-1, 2, (size, 9)), drawn.integers(-1, 2, size)]
    want, got = (results(layer, given, dtype) for layer in layers(side, size, piece, monkeypatch))
    for name, array in want.items():
        assert np.array_equal(array, got[name]), name


def test_what_is_not_finite_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    side, size, count = 5, 2, 3
    written, run = layers(side, size, 2, monkeypatch)
    for place, wrong in product(range(3), WRONG):
        given = [cases.noise(i, *s) for i, s in enumerate([(count, side**2), (size, 9), (size,)])]
        given[place].flat[given[place].size // 2] = wrong
        want, got = (results(layer, given, "float64") for layer in (written, run))
        for name, array in want.items():
            hidden = np.isfinite(got[name]) & ~np.isfinite(array)
            assert not hidden.any(), f"{wrong} in {NAMES[place]}: {name}"
        sure = np.isfinite(want["out"])
        assert np.allclose(got["out"][sure], want["out"][sure]), f"{wrong} in {NAMES[place]}"


def test_a_model_runs_it_and_gives_what_the_equations_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores, states from a given one, and all gradients of the loss."""
    from fwt.backends.mlx.kernels import convnet

    spec = cases.core_only({"kind": "convnet", "size": 4, "steps": STEPS}, 49)
    x, targets = cases.noise(1, 5, STEPS, 49), np.arange(5) % 2
    given = {"h": cases.noise(7, 5, 4)}
    found = []
    for loop in (convnet.unroll, model.unroll):
        calls = []

        def spied(*arguments: Any, loop: Any = loop, calls: list[int] = calls, **more: Any) -> Any:
            calls.append(1)
            return loop(*arguments, **more)

        monkeypatch.setattr(convnet, "unroll", spied)
        on = engine("mlx", "float64").compile(spec, cases.params_of(spec))
        outputs, state = on.states(x, given)
        loss, slopes = on.gradients(x, targets)
        assert calls, "the override did not run"
        found.append({"outputs": outputs, **state, "loss": np.array(loss), **slopes})
    for name, array in found[1].items():
        assert_close(name, array, found[0][name], "gradients", "float64", "self")
