"""The fused core of MLX against the equations: outputs, final states and every gradient."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fwt.fwcore.errors import ConfigError
from tests import cases
from tests.conftest import need
from tests.mlx_fused_cases import COVERED, FEATURES, LEAST, SHAPES, SIZE, SOME, given_state, hold
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("eager")


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
