"""Every variant of every cell, on every backend, in every memory form, against scalar loops."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from fwt.backends.contract import Backend
from fwt.fwcore import memory
from fwt.fwcore.cells import cells
from fwt.fwcore.memory import OPERATIONS_PER_BYTE, HistoryMemory, MatrixMemory, Rates
from fwt.fwcore.ops import NumpyArray
from tests import cases, oracle
from tests.cases import FAST, ORACLES, REAL_FORMS, VARIANTS, Engine
from tests.tolerances import assert_close

SIZE, INPUTS = 5, 4
SHAPES = ((2, 7), (3, 1), (1, 5))  # (B, T): odd T, several chunk borders; T = 1; B = 1

Result = tuple[NumpyArray, oracle.States]


@cache
def expected(variant: str, batch: int, time: int) -> Result:
    inputs = cases.inputs_of(variant, INPUTS)
    spec = cases.core_only(cases.core_of(variant, SIZE), inputs)
    core = cases.oracle_core(spec.core)
    return core(cases.params_of(spec), cases.noise(1, batch, time, inputs))


def check(name: str, want: Result, got: Result, dtype: str, pair: str = "oracle") -> None:
    assert_close(f"{name} hs", want[0], got[0], "outputs", dtype, pair)
    assert set(got[1]) <= set(want[1])
    for key, array in want[1].items():
        found = got[1].get(key)
        if found is None:  # nothing was ever stored
            assert key == "A"
            assert not array.any(), f"{name}: A is missing, but something was stored"
            continue
        assert_close(f"{name} {key}", array, found, "states", dtype, pair)


# --- the list of variants is the list of cells --------------------------------------------


def test_every_cell_of_the_registry_has_an_oracle_and_variants() -> None:
    assert set(ORACLES) == set(cells()), "a cell without an oracle, or an oracle without a cell"
    assert {core["kind"] for core in VARIANTS.values()} == set(cells())


def test_every_option_of_every_cell_is_varied() -> None:
    """A new field or a new choice of an old one must get a variant."""
    same = {"kind", "size", "steps", "trained", "init_scale", "recurrent_init", "forget_bias"}
    for kind, cell in cells().items():
        own = [core for core in VARIANTS.values() if core["kind"] == kind]
        for name, field in cell.Spec.model_fields.items():
            if name in same or name in ("decay", "rate"):
                continue
            used = {str(core.get(name, field.default)) for core in own}
            assert len(used) >= 2, f"{kind}.{name} has the values {used} only"
            choices = getattr(field.annotation, "__args__", ())
            if choices and all(isinstance(choice, str) for choice in choices):
                assert used == set(choices), f"{kind}.{name}"


def test_the_variants_have_different_outputs() -> None:
    """Two variants that agree would not show that an option is ignored."""
    seen: dict[bytes, str] = {}
    for variant in VARIANTS:
        if "S0" in variant:
            continue  # without reads, write and sustained change A only or nothing
        hs, states = expected(variant, 2, 7)
        key = np.round(np.concatenate([hs.ravel(), *(a.ravel() for a in states.values())]), 9)
        assert key.tobytes() not in seen, f"{variant} gives what {seen[key.tobytes()]} gives"
        seen[key.tobytes()] = variant


# --- against the oracle -------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_final_states_are_those_of_the_equations(variant: str, engine: Engine) -> None:
    inputs = cases.inputs_of(variant, INPUTS)
    spec = cases.core_only(cases.core_of(variant, SIZE), inputs)
    params = cases.params_of(spec)
    for form in cases.forms_of(spec.core):
        made = engine.compile(spec, params, form)
        for batch, time in SHAPES:
            want = expected(variant, batch, time)
            got = made.states(cases.noise(1, batch, time, inputs))
            check(f"{form} B={batch} T={time}", want, got, engine.dtype)


LONG = {
    "plain": {},
    "gated": {"store": tuple(range(0, 40, 3))},
    "levels": {"store": tuple(range(5, 40, 4)), "wipe": True, "integrate": tuple(range(7, 40, 8))},
    "three reads": {"inner_steps": 3},
    "preliminary": {"write": "preliminary"},
}


@cache
def long_expected(name: str) -> Result:
    spec = long_spec(name)
    return cases.oracle_core(spec.core)(cases.params_of(spec), cases.noise(2, 2, 40, INPUTS))


def long_spec(name: str) -> cases.ModelSpec:
    return cases.core_only({"kind": "fast-weights", "size": 8, **LONG[name]}, INPUTS)


@pytest.mark.parametrize("name", LONG)
def test_forty_steps_cross_many_chunk_borders(name: str, engine: Engine) -> None:
    spec = long_spec(name)
    chunk = engine.compile(spec, None, "chunked").describe(2, 40)["chunk"]
    stores = 40 if spec.core.store is None else len(spec.core.store)
    assert stores // chunk >= 2, "too few borders to show anything"
    for form in REAL_FORMS:
        made = engine.compile(spec, cases.params_of(spec), form)
        got = made.states(cases.noise(2, 2, 40, INPUTS))
        check(f"{form} {name}", long_expected(name), got, engine.dtype)


@pytest.mark.parametrize("variant", [name for name in cases.SOME if name in FAST])
def test_the_memory_forms_agree(variant: str, engine: Engine) -> None:
    spec = cases.core_only(cases.core_of(variant, 6), INPUTS)
    params, x = cases.params_of(spec), cases.noise(3, 2, 9, INPUTS)
    results = {form: engine.compile(spec, params, form).states(x) for form in REAL_FORMS}
    for form in ("attention", "chunked"):
        check(f"{form} and matrix", results["matrix"], results[form], engine.dtype, "self")


# --- trained decay and rate ---------------------------------------------------------------


@pytest.mark.parametrize("form", REAL_FORMS)
@pytest.mark.parametrize("plan", ["flat", "levels"])
def test_trained_rates_begin_as_the_fixed_ones(plan: str, form: str, engine: Engine) -> None:
    fields = cases.fast_weights("sum", "final", "boundary", 2, plan) | {"size": SIZE}
    fixed = cases.core_only(fields, INPUTS)
    trained = cases.core_only({**fields, "trained": True}, INPUTS)
    params = cases.params_of(fixed)
    logit, log_rate = np.log(0.9 / 0.1), np.log(0.5)
    more = {"core.decay_logit": np.array(logit), "core.log_rate": np.array(log_rate)}
    x = cases.noise(4, 2, 7, INPUTS)
    want = engine.compile(fixed, params, form).states(x)
    check(form, want, engine.compile(trained, params | more, form).states(x), engine.dtype, "self")


def test_trained_rates_start_at_the_numbers_of_the_spec(backend: Backend) -> None:
    fields = {"kind": "fast-weights", "size": 3, "trained": True, "decay": 0.8, "rate": 0.3}
    params = backend.compile(cases.core_only(fields, INPUTS)).parameters()
    assert 1 / (1 + np.exp(-params["core.decay_logit"])) == pytest.approx(0.8, rel=1e-6)
    assert np.exp(params["core.log_rate"]) == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("form", REAL_FORMS)
def test_other_trained_rates_are_used(form: str, engine: Engine) -> None:
    fields = cases.fast_weights("sum", "final", "boundary", 1, "store") | {"size": SIZE}
    spec = cases.core_only({**fields, "trained": True}, INPUTS)
    params = cases.params_of(spec, spread=0.5)
    x = cases.noise(4, 2, 7, INPUTS)
    want = cases.oracle_core(spec.core)(params, x)
    check(form, want, engine.compile(spec, params, form).states(x), engine.dtype)


# --- which form ---------------------------------------------------------------------------


def cost(plan: memory.Plan) -> float:
    return plan.operations + OPERATIONS_PER_BYTE * plan.bytes


@pytest.mark.parametrize("batch", [1, 128])
@pytest.mark.parametrize("inner", [0, 1, 3])
def test_auto_takes_the_cheapest_form(batch: int, inner: int) -> None:
    for time, size in product((1, 2, 7, 11, 24, 50, 200, 1000, 5000), (2, 5, 20, 50, 200)):
        chosen = memory.plan("auto", batch, time, size, inner)
        each = {form: memory.plan(form, batch, time, size, inner) for form in REAL_FORMS}
        assert chosen == each[chosen.form]
        assert cost(chosen) == min(map(cost, each.values()))


def test_short_sequences_take_attention_and_long_ones_do_not() -> None:
    for size in (20, 50, 100, 200):
        assert memory.plan("auto", 128, max(2, size // 4), size, 1).form == "attention"
        assert memory.plan("auto", 128, 20 * size, size, 1).form == "chunked"


def test_the_costs_are_those_of_the_equations() -> None:
    """Multiply-adds of a batch: R x R products a step for A, T x T / 2 scores and sums twice."""
    batch, time, size, inner = 3, 8, 5, 2
    matrix = memory.plan("matrix", batch, time, size, inner)
    attention = memory.plan("attention", batch, time, size, inner)
    assert matrix.operations == batch * time * size * size * (2 + inner)  # decay, write, reads
    assert attention.operations == batch * inner * time * time * size


@pytest.mark.parametrize("form", REAL_FORMS)
def test_the_form_asked_for_is_the_one_that_runs_and_is_named(form: str, backend: Backend) -> None:
    spec = cases.core_only({"kind": "fast-weights", "size": 8}, INPUTS)
    described = backend.compile(spec, memory=form).describe(4, 11)
    assert described["memory"] == form
    assert (described["chunk"] > 0) == (form == "chunked")


def test_auto_says_which_form_it_took(backend: Backend) -> None:
    spec = cases.core_only({"kind": "fast-weights", "size": 8}, INPUTS)
    made = backend.compile(spec)
    form = "auto" if backend.name == "numpy" else "fused"  # both others have a fused core here
    for time in (2, 11, 500):
        plan = memory.plan(form, 4, time, 8, 1)
        described = made.describe(4, time)
        assert (described["memory"], described["chunk"]) == (plan.form, plan.chunk)
    assert len({made.describe(4, time)["chunk"] for time in (2, 500)}) == 2
    plain = backend.compile(cases.core_only({"kind": "lstm", "size": 8}, INPUTS))
    assert plain.describe(4, 11)["memory"] == "none"


def test_each_form_is_the_memory_it_says() -> None:
    rates = Rates(None, 0.9, 0.5)  # type: ignore[arg-type]
    made = {form: memory.start(rates, memory.plan(form, 1, 9, 8, 1)) for form in REAL_FORMS}
    assert isinstance(made["matrix"], MatrixMemory)
    assert isinstance(made["attention"], HistoryMemory)
    assert made["attention"].chunk == 0
    assert isinstance(made["chunked"], HistoryMemory)
    assert made["chunked"].chunk == 4  # round(sqrt(2 * 8 / 1))


def test_what_a_kind_declares_is_what_its_options_are():
    for kind, cell in cells().items():
        options = set(cell.Spec.model_fields)
        assert cell.Spec.levels == (options >= {"store", "wipe", "integrate"}), kind
        assert cell.Spec.weighs_steps == ("steps" in options), kind
