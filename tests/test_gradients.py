"""Gradients of every parameter: against differences of the oracle, and torch against MLX."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import Backend
from fwt.fwcore import model
from fwt.fwcore.cells import cells
from fwt.fwcore.errors import BackendError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases, oracle
from tests.cases import FAST, PLAIN, PORTS, Engine
from tests.tolerances import assert_close

SIZE, TIME, BATCH, FEATURES = 3, 4, 2, 2
LEAST = 1e-3  # a gradient that is 0 is held to this size: differences of the loss are not 0

INPUTS = cases.noise(11, BATCH, TIME, FEATURES)
TARGETS = np.array([2, 0])

# every option of the flat cell, then every plan with the paper's options
TINY: dict[str, dict[str, Any]] = {
    **{name: fields for name, fields in FAST.items() if name.endswith("flat")},
    **{
        name: fields
        for name, fields in FAST.items()
        if not name.endswith("flat") and name.startswith("fast-sum") and "-boundary-" in name
    },
    **PORTS,
    **PLAIN,
    **{
        f"{name}-trained": {**FAST[name], "trained": True}
        for name in (
            "fast-sum-final-boundary-S1-flat",
            "fast-sum-final-boundary-S3-levels",
            "fast-none-preliminary-identity-S1-store",
            "fast-sum-preliminary-boundary-S3-wipe",
        )
    },
}


def plain(name: str) -> str:
    """The variant behind a name, without what is trained beside it."""
    return name.removesuffix("-trained")


def tiny(name: str) -> ModelSpec:
    return ModelSpec.parse(
        {
            "encoder": {
                "kind": "linear",
                "features": FEATURES,
                "size": cases.inputs_of(plain(name), 3, side=5),
            },
            "core": {**cases.core_of(plain(name), SIZE), **TINY[name]},
            "head": {"hidden": 3, "classes": 3},
        },
        "test",
    )


def tiny_params(spec: ModelSpec) -> dict[str, NumpyArray]:
    params = cases.params_of(spec, seed=16)
    # no ReLU unit of the encoder or the head is off for all examples
    more = {name: np.abs(params[name]) + 0.3 for name in ("encoder.bias", "head.hidden.bias")}
    return params | more


def oracle_loss(spec: ModelSpec, params: Mapping[str, NumpyArray]) -> float:
    core = cases.oracle_core(spec.core)
    scores = oracle.network(params, INPUTS, encoder="linear", core=core)
    return oracle.cross_entropy(scores, TARGETS)


@cache
def differences(name: str) -> dict[str, NumpyArray]:
    spec = tiny(name)
    params = tiny_params(spec)
    loss = partial(oracle_loss, spec)
    return {key: oracle.numeric_gradient(loss, params, key) for key in params}


def test_every_cell_is_here() -> None:
    assert {fields["kind"] for fields in TINY.values()} == set(cells())


@pytest.mark.parametrize("name", TINY)
def test_every_gradient_is_large_enough_to_be_seen(name: str) -> None:
    """Guards the comparison below, which sees 1e-9: gradients of nought would hold for nothing."""
    sizes = {key: float(np.abs(slope).max()) for key, slope in differences(name).items()}
    idle = {key for key, size in sizes.items() if size < 1e-5}
    assert idle <= ({"core.w"} if TINY[name].get("wipe") else set()), f"{idle} of {sizes}"


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_those_of_the_oracle(name: str, exact_engine: Engine) -> None:
    spec = tiny(name)
    params = tiny_params(spec)
    want = differences(name)
    for form in cases.forms_of(spec.core):
        loss, got = exact_engine.compile(spec, params, form).gradients(INPUTS, TARGETS)
        assert_close(f"{form} loss", oracle_loss(spec, params), loss, "loss", "float64", "oracle")
        assert got.keys() == params.keys() == {p.name for p in model.parameters(spec)}
        for key, slope in want.items():
            label = f"{form} d{key}"
            assert_close(label, slope, got[key], "gradients", "float64", "oracle", floor=LEAST)


# --- the two frameworks at the size of a real recipe --------------------------------------

REAL = [*cases.SOME, "fast-sum-final-boundary-S1-trained"]


def real(name: str) -> ModelSpec:
    trained = name.endswith("-trained")
    core = cases.VARIANTS[name.replace("trained", "flat") if trained else name]
    return ModelSpec.parse(
        {
            "encoder": {"kind": "embedding", "symbols": 37, "size": 100},  # 10x10 to a convnet
            "core": {**core, "size": 20, **({"trained": True} if trained else {})},
            "head": {"hidden": 100, "classes": 10},
        },
        "test",
    )


@pytest.mark.parametrize("name", REAL)
def test_torch_and_mlx_have_the_same_gradients_in_float32(
    name: str, both: dict[str, Engine]
) -> None:
    spec = real(name)
    params = cases.params_of(spec, seed=5, spread=0.05)
    random = np.random.default_rng(6)
    ids, targets = random.integers(37, size=(16, 11)), random.integers(10, size=16)
    for form in cases.forms_of(spec.core):
        loss, found = {}, {}
        for engine in both.values():
            made = engine.compile(spec, params, form)
            loss[engine.name], found[engine.name] = made.gradients(ids, targets)
        pair = ("float32", "torch-mlx")
        assert loss["mlx"] == pytest.approx(loss["torch"], rel=1e-5)
        for key, slope in found["torch"].items():
            assert np.abs(slope).max() > 0, f"{form} d{key} is 0 everywhere"
            assert_close(f"{form} d{key}", slope, found["mlx"][key], "gradients", *pair)


# --- corners ------------------------------------------------------------------------------


def test_the_slope_of_relu_at_0_is_0(training_engine: Engine) -> None:
    """A head whose hidden units are all exactly 0 sends no gradient back."""
    spec = tiny("rnn-tanh-none")
    params = tiny_params(spec)
    for name in ("head.hidden.weight", "head.hidden.bias"):
        params[name] = np.zeros_like(params[name])
    _, found = training_engine.compile(spec, params).gradients(INPUTS, TARGETS)
    assert np.abs(found["head.output.bias"]).max() > 0.1
    for name in ("head.hidden.weight", "head.hidden.bias", "core.wh", "encoder.weight"):
        assert not found[name].any(), name


def test_gradients_do_not_add_up_over_calls(training_engine: Engine) -> None:
    made = training_engine.compile(tiny("lstm-none"), tiny_params(tiny("lstm-none")))
    first, again = (made.gradients(INPUTS, TARGETS) for _ in range(2))
    assert first[0] == again[0]
    for name, slope in first[1].items():
        assert np.array_equal(slope, again[1][name]), name


def test_a_weight_without_effect_has_gradient_0_and_is_not_missing(
    training_engine: Engine,
) -> None:
    """Integration weights of a step after the end of the sequence."""
    name = "fast-sum-final-boundary-S1-integrate"
    spec = tiny(name).model_copy(
        update={"core": tiny(name).core.model_copy(update={"integrate": (99,)})}
    )
    _, found = training_engine.compile(spec, tiny_params(spec)).gradients(INPUTS, TARGETS)
    for key, wanted in product(("core.w_int", "core.c_int"), (0.0,)):
        assert (found[key] == wanted).all(), key
        assert found[key].shape == tiny_params(spec)[key].shape


def test_numpy_refuses_gradients(backend: Backend) -> None:
    made = backend.compile(tiny("gru-none"), tiny_params(tiny("gru-none")))
    if "forward only" not in made.describe(BATCH, TIME)["step"]:
        loss, found = made.gradients(INPUTS, TARGETS)
        assert loss > 0
        assert len(found) == len(model.parameters(made.spec))
        return
    with pytest.raises(BackendError, match="no gradients"):
        made.gradients(INPUTS, TARGETS)
