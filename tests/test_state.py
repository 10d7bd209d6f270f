"""The state between two calls: starting from zeros, from half way, after a wipe, before a write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.fwcore import memory
from fwt.fwcore.memory import Rates
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases
from tests.cases import PLAIN, REAL_FORMS, VARIANTS, Engine
from tests.tolerances import assert_close

SIZE, INPUTS, TIME = 5, 4, 8

CHOSEN = [
    *PLAIN,
    *(
        f"fast-sum-{write}-boundary-S{inner}-{plan}"
        for write in ("final", "preliminary")
        for inner, plan in (
            (0, "store"),
            (1, "flat"),
            (1, "wipe-always"),
            (1, "integrate"),
            (3, "levels"),
        )
    ),
    "fast-slow-final-identity-S1-store",
    "fast-none-preliminary-boundary-S3-wipe",
]


def spec_of(variant: str) -> ModelSpec:
    return cases.core_only(cases.core_of(variant, SIZE), cases.inputs_of(variant, INPUTS))


def noise(seed: int, variant: str, batch: int, time: int) -> NumpyArray:
    return cases.noise(seed, batch, time, cases.inputs_of(variant, INPUTS))


def zeros_of(variant: str, batch: int) -> dict[str, NumpyArray]:
    core: Any = spec_of(variant).core
    shapes: dict[str, tuple[int, ...]] = {"h": (batch, core.size)}
    if core.kind == "lstm":
        shapes["c"] = (batch, SIZE)
    if core.kind == "alstm":
        shapes |= dict.fromkeys(("c_real", "c_imag"), (batch, core.copies, core.size // 2))
    if core.kind == "fast-weights":
        shapes["A"] = (batch, SIZE, SIZE)
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def same_states(
    label: str, want: dict[str, NumpyArray], got: dict[str, NumpyArray], dtype: str
) -> None:
    assert want.keys() == got.keys(), label
    for name, array in want.items():
        assert_close(f"{label} {name}", array, got[name], "states", dtype, "self")


@pytest.mark.parametrize("variant", CHOSEN)
def test_no_state_is_the_zero_state(variant: str, engine: Engine) -> None:
    spec = spec_of(variant)
    x = noise(7, variant, 2, TIME)
    for form in cases.forms_of(spec.core):
        made = engine.compile(spec, cases.params_of(spec), form)
        (hs, final), (hs_zero, final_zero) = made.states(x), made.states(x, zeros_of(variant, 2))
        assert_close(f"{form} hs", hs, hs_zero, "outputs", engine.dtype, "self")
        same_states(form, final, final_zero, engine.dtype)


@pytest.mark.parametrize("variant", CHOSEN)
@pytest.mark.parametrize("cut", [1, 5])
def test_two_parts_are_one_run(variant: str, cut: int, engine: Engine) -> None:
    """`first` keeps the count of time steps, by which a plan stores and integrates."""
    spec = spec_of(variant)
    x = noise(8, variant, 2, TIME)
    for form in cases.forms_of(spec.core):
        made = engine.compile(spec, cases.params_of(spec), form)
        hs, final = made.states(x)
        head, middle = made.states(x[:, :cut])
        tail, end = made.states(x[:, cut:], middle, cut)
        joined = np.concatenate([head, tail], axis=1)
        assert_close(f"{form} hs", hs, joined, "outputs", engine.dtype, "self")
        same_states(form, final, end, engine.dtype)


@pytest.mark.parametrize("form", REAL_FORMS)
def test_one_form_goes_on_where_another_stopped(form: str, engine: Engine) -> None:
    spec = cases.core_only(cases.core_of("fast-sum-final-boundary-S1-flat", SIZE), INPUTS)
    params, x = cases.params_of(spec), cases.noise(8, 2, TIME, INPUTS)
    hs, _ = engine.compile(spec, params, "matrix").states(x)
    _, middle = engine.compile(spec, params, form).states(x[:, :4])
    for other in REAL_FORMS:
        tail, _ = engine.compile(spec, params, other).states(x[:, 4:], middle, 4)
        assert_close(f"{form}, then {other}", hs[:, 4:], tail, "outputs", engine.dtype, "self")


@pytest.mark.parametrize("variant", CHOSEN)
def test_a_given_state_has_an_effect(variant: str, engine: Engine) -> None:
    """Without this, ignoring `given` altogether would pass for the zero state."""
    spec = spec_of(variant)
    x = noise(9, variant, 1, 1)
    made = engine.compile(spec, cases.params_of(spec))
    plain, _ = made.states(x)
    for name, array in zeros_of(variant, 1).items():
        if name == "A" and not spec.core.memory_reads:
            continue
        given = {"h": np.full((1, spec.core.size), 0.5)}
        change = cases.noise(12, *array.shape)
        if name == "A":
            change = change @ change.swapaxes(1, 2)
        other = {**given, name: array + change}
        base = plain if name == "h" else made.states(x, given)[0]
        assert np.abs(made.states(x, other)[0] - base).max() > 1e-3, name


@pytest.mark.parametrize("form", REAL_FORMS)
@pytest.mark.parametrize("write", ["final", "preliminary"])
def test_a_wipe_leaves_h_0_and_the_output_as_it_was(write: str, form: str, engine: Engine) -> None:
    fields = {**VARIANTS[f"fast-sum-{write}-boundary-S1-flat"], "size": SIZE}
    x = cases.noise(10, 2, 3, INPUTS)
    wiping = cases.core_only({**fields, "store": (2,), "wipe": True}, INPUTS)
    keeping = cases.core_only({**fields, "store": (2,), "wipe": False}, INPUTS)
    params = cases.params_of(wiping)
    hs, final = engine.compile(wiping, params, form).states(x)
    kept_hs, kept = engine.compile(keeping, params, form).states(x)
    assert np.array_equal(hs, kept_hs)
    assert np.abs(hs[:, -1]).max() > 0.1
    assert np.array_equal(kept["h"], kept_hs[:, -1])
    assert final["h"].shape == kept["h"].shape
    assert not final["h"].any()
    assert np.array_equal(final["A"], kept["A"])
    assert final["A"].any()


@pytest.mark.parametrize("form", REAL_FORMS)
def test_a_memory_read_before_any_write_is_0(form: str) -> None:
    rates = Rates(None, 0.9, 0.5)  # type: ignore[arg-type]
    empty = memory.start(rates, memory.plan(form, 2, 9, SIZE, 1))
    for asked in (empty, empty.skip(), empty.skip().skip()):
        assert asked.read(np.ones((2, SIZE))) == 0.0
        assert asked.matrix() is None


@pytest.mark.parametrize("form", REAL_FORMS)
@pytest.mark.parametrize("inner", [1, 3])
def test_a_cell_that_has_not_stored_is_one_without_memory(
    inner: int, form: str, engine: Engine
) -> None:
    """Reads of nothing leave f(W h + C x) as it is, to the last bit."""
    base = {"kind": "fast-weights", "size": SIZE, "norm": "none", "store": (99,)}
    none = cases.core_only({**base, "inner_steps": 0}, INPUTS)
    spec = cases.core_only({**base, "inner_steps": inner}, INPUTS)
    params, x = cases.params_of(none), cases.noise(10, 2, 4, INPUTS)
    want, _ = engine.compile(none, params, form).states(x)
    got, final = engine.compile(spec, params, form).states(x)
    assert np.abs(want).max() > 0.1
    assert np.array_equal(want, got)
    assert "A" not in final
