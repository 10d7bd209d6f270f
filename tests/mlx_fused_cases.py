"""Cores and shapes that the fused core of MLX is held to, against the memory as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import NumpyArray
from tests import cases
from tests.cases import FAST, PORTS
from tests.conftest import need
from tests.tolerances import assert_close

SIZE, FEATURES = 3, 2
LEAST = 1e-3  # a gradient that is 0 is held to this size
COVERED = [
    name
    for name in (*FAST, *PORTS)
    if "-final-boundary-" in name and not {"slow", "both"} & set(name.split("-"))
]
# (B, T, chunk): one step, an odd number, one sequence, borders, a border after each step
SHAPES = [(2, 1, 100), (2, 7, 100), (1, 7, 3), (2, 9, 2), (2, 5, 1)]
SOME = [
    "fast-sum-final-boundary-S1-flat",
    "fast-none-final-boundary-S3-store",
    "fast-sum-final-boundary-S3-levels",
    "fast-sum-final-boundary-S0-wipe",
    "fast-sum-final-boundary-S1-flat-bias",
    "fast-sum-final-boundary-S3-levels-bias",
]


def given_state(batch: int) -> dict[str, NumpyArray]:
    """An h that a ReLU can give and a symmetric A."""
    half = 0.1 * cases.noise(5, batch, SIZE, SIZE)
    return {
        "h": np.abs(cases.noise(4, batch, SIZE)),
        "A": half + half.transpose(0, 2, 1),
    }


def run(
    name: str,
    form: str,
    shape: tuple[int, int, int],
    given: dict[str, NumpyArray] | None = None,
    first: int = 0,
    **more: Any,
) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray]]:
    """Outputs and final state of a core, and the gradients of a sum over both of them."""
    backend = need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels import fused

    batch, steps, chunk = shape
    spec = cases.core_only(cases.core_of(name, SIZE, **more), FEATURES)
    compiled = backend.compile(spec, cases.params_of(spec, 3), device="cpu", dtype="float64")
    unroll = fused.unroll if form == "fused" else model.unroll
    plan = Plan(form, chunk if form == "fused" else 0, 0.0, 0.0)
    with mx.stream(mx.cpu):
        x = mx.array(cases.noise(1, batch, steps, FEATURES), dtype=mx.float64)
        start = {key: mx.array(array, dtype=mx.float64) for key, array in (given or {}).items()}
        factors = iter(range(20, 30))

        def weighted(array: Any) -> Any:
            factor = mx.array(cases.noise(next(factors), *array.shape), dtype=mx.float64)
            return mx.sum(array * factor)

        def measure(weights: Any, x: Any, start: Any) -> Any:
            outputs, state = unroll(compiled._ops, spec, weights, x, plan, start, first)
            found = {"outputs": mx.stack(list(outputs), 1), **state.arrays()}
            return sum(weighted(array) for array in found.values()), found

        weights = {k: v for k, v in compiled.module.weights().items() if k.startswith("core.")}
        (_, values), gradients = mx.value_and_grad(measure, argnums=(0, 1, 2))(weights, x, start)
        flat = {**gradients[0], "x": gradients[1], **{f"given {k}": v for k, v in start.items()}}
        flat |= {f"given {k}": v for k, v in gradients[2].items()}
        return _arrays(values), _arrays(flat)


def _arrays(tree: dict[str, Any]) -> dict[str, NumpyArray]:
    return {name: np.array(array) for name, array in tree.items()}


def hold(name: str, shape: tuple[int, int, int], *args: Any, **more: Any) -> None:
    """Every number of the fused core against the memory as a matrix."""
    wanted = run(name, "matrix", shape, *args, **more)
    got = run(name, "fused", shape, *args, **more)
    for quantity, want, have in zip(("states", "gradients"), wanted, got, strict=True):
        assert want.keys() == have.keys()
        for key, array in want.items():
            assert_close(f"{name} {key}", array, have[key], quantity, "float64", "self", LEAST)
