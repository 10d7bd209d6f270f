"""The fused core of MLX against the equations: outputs, final states and every gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.errors import ConfigError
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

pytestmark = pytest.mark.usefixtures("eager")


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

    from fwt.backends.mlx import fused

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
            found = {"outputs": mx.stack(list(outputs), 1), **state.named()}
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


@pytest.mark.parametrize("name", COVERED)
def test_fused_core_has_the_values_and_gradients_of_the_equations(name: str) -> None:
    hold(name, SHAPES[1])


@pytest.mark.parametrize(("name", "shape"), list(product(SOME, SHAPES)))
def test_any_length_batch_and_chunk(name: str, shape: tuple[int, int, int]) -> None:
    hold(name, shape)


@pytest.mark.parametrize(("name", "shape"), list(product(SOME, SHAPES[1:4])))
def test_trained_decay_and_rate(name: str, shape: tuple[int, int, int]) -> None:
    hold(name, shape, trained=True)


@pytest.mark.parametrize(("name", "shape"), list(product(SOME, SHAPES[:4])))
def test_continues_from_a_given_state(name: str, shape: tuple[int, int, int]) -> None:
    hold(name, shape, given_state(shape[0]), 2, trained=True)


def test_a_given_h_without_a_memory() -> None:
    hold(SOME[0], SHAPES[1], {"h": given_state(2)["h"]}, 1)


def test_long_sequences_in_chunks() -> None:
    hold(SOME[0], (2, 60, 7), trained=True)


@pytest.mark.parametrize("name", SOME)
def test_a_model_with_the_fused_core_learns_like_one_without(name: str) -> None:
    backend = need("mlx")
    spec = cases.core_only(cases.core_of(name, SIZE), FEATURES)
    params = cases.params_of(spec, 3)
    x, targets = cases.noise(1, 2, 8, FEATURES), np.array([1, 0])
    forms = [
        backend.compile(spec, params, device="cpu", dtype="float64", memory=form)
        for form in ("matrix", "auto")
    ]
    (loss, want), (other, have) = (one.gradients(x, targets) for one in forms)
    assert_close("loss", [loss], [other], "states", "float64", "self")
    for key, array in want.items():
        assert_close(key, array, have[key], "gradients", "float64", "self", LEAST)
    for given in (None, given_state(2)):
        (outputs, final), (fused_outputs, fused_final) = (one.states(x, given, 1) for one in forms)
        assert_close("outputs", outputs, fused_outputs, "outputs", "float64", "self")
        assert final.keys() == fused_final.keys()
        for key, array in final.items():
            assert_close(key, array, fused_final[key], "states", "float64", "self")


def test_describe_names_the_kernel() -> None:
    backend = need("mlx")
    spec = cases.core_only(cases.core_of(SOME[0], SIZE), FEATURES)
    facts = {
        form: backend.compile(spec, device="cpu", memory=form).describe(4, 8)
        for form in ("auto", "fused", "matrix", "attention", "chunked")
    }
    found = {form: (fact["memory"], fact["kernel"]) for form, fact in facts.items()}
    assert found["auto"] == found["fused"] == ("fused", "custom_function")
    for form in ("matrix", "attention", "chunked"):
        assert found[form] == (form, "none")


def test_what_is_not_covered_is_refused_by_name() -> None:
    backend = need("mlx")
    spec = cases.core_only(cases.core_of("fast-slow-final-boundary-S1-flat", SIZE), FEATURES)
    assert backend.compile(spec, device="cpu").describe(4, 8)["kernel"] == "none"
    with pytest.raises(ConfigError, match="norm='slow'"):
        backend.compile(spec, device="cpu", memory="fused")
    spec = cases.core_only(cases.core_of(SOME[0], SIZE), FEATURES)
    with pytest.raises(ConfigError, match="bfloat16"):
        backend.compile(spec, device="cpu", dtype="bfloat16", memory="fused")
