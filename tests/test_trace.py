"""What a traced forward pass says: held against the equations it is made of, on all backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import Backend
from fwt.fwcore.analysis.trace import Trace, effective_rank, spectrum
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases
from tests.cases import Engine
from tests.tolerances import assert_close

SIZE, BATCH, TIME = 5, 2, 7
INPUTS = np.random.default_rng(5).integers(0, 9, (BATCH, TIME))

VARIANTS = (
    "fast-sum-final-boundary-S1-flat",
    "fast-sum-final-boundary-S3-levels",
    "fast-none-final-boundary-S1-store",
    "fast-sum-preliminary-boundary-S1-flat",
    "fast-sum-final-boundary-S0-flat",
)


def spec_of(core: dict[str, Any]) -> ModelSpec:
    encoder = {"kind": "embedding", "symbols": 9, "size": 4}
    return ModelSpec.parse({"encoder": encoder, "core": core, "head": {"classes": 3}}, "test")


def traced(backend: Backend, spec: ModelSpec) -> tuple[Any, dict[str, NumpyArray], Trace]:
    params = cases.params_of(spec)
    compiled = Engine(backend, "float64").compile(spec, params)
    return compiled, params, compiled.trace(INPUTS)


def close(name: str, want: Any, got: Any) -> None:
    assert_close(name, want, got, "outputs", "float64", "self", floor=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_are_attention_to_stored_states_and_a_times_the_query(
    backend: Backend, variant: str
) -> None:
    spec = spec_of(cases.core_of(variant, SIZE))
    compiled, _, found = traced(backend, spec)
    core: Any = spec.core
    close("scores", compiled.forward(INPUTS), found.scores)
    assert len(found.steps) == TIME
    written = [t for t in range(TIME) if core.store is None or t in core.store]
    outputs = [step.output for step in found.steps]
    for t, step in enumerate(found.steps):
        assert len(step.reads) == core.inner_steps
        preliminary = core.write == "preliminary"
        for read in step.reads:
            assert read.steps == tuple(tau for tau in written if tau < t + preliminary)
            assert read.weights.shape == (BATCH, len(read.steps))
            if not preliminary:  # there h_0 is stored, which is no output
                past = np.array([outputs[tau] for tau in read.steps]).reshape(-1, BATCH, SIZE)
                close(f"read at {t}", np.einsum("bn,nbr->br", read.weights, past), read.result)
        if step.matrix is not None and not preliminary:
            ages = [(tau, t - tau) for tau in written if tau <= t]
            want = sum(
                core.rate * core.decay**age * np.einsum("bi,bj->bij", outputs[tau], outputs[tau])
                for tau, age in ages
            )
            close(f"A after {t}", want, step.matrix)


def test_weights_are_equation_4_of_the_query(backend: Backend) -> None:
    """With S = 2 the second query is the state that the first read gave."""
    spec = spec_of({"kind": "fast-weights", "size": SIZE, "inner_steps": 2, "norm": "none",
                    "rate": 0.02, "decay": 0.9})  # fmt: skip
    _, _, found = traced(backend, spec)
    outputs = [step.output for step in found.steps]
    for t, step in enumerate(found.steps):
        assert step.slow is not None
        query = np.maximum(step.slow, 0)
        for read in step.reads:
            for place, tau in enumerate(read.steps):
                want = 0.02 * 0.9 ** (t - 1 - tau) * (outputs[tau] * query).sum(-1)
                close(f"weight of {tau} at {t}", want, read.weights[:, place])
            query = np.maximum(step.slow + read.result, 0)
        close(f"output at {t}", query, step.output)


def test_scores_of_a_step_are_the_head_applied_to_its_state(backend: Backend) -> None:
    _, p, found = traced(backend, spec_of({"kind": "fast-weights", "size": SIZE}))
    for t, step in enumerate(found.steps):
        hidden = np.maximum(step.output @ p["head.hidden.weight"].T + p["head.hidden.bias"], 0)
        want = hidden @ p["head.output.weight"].T + p["head.output.bias"]
        close(f"scores at {t}", want, step.scores)


def test_slow_input_is_w_h_plus_c_x(backend: Backend) -> None:
    spec = spec_of(cases.core_of("fast-sum-final-boundary-S3-levels", SIZE))
    _, p, found = traced(backend, spec)
    core: Any = spec.core
    for t, step in enumerate(found.steps):
        x = p["encoder.weight"][INPUTS[:, t]]
        w, c = ("core.w_int", "core.c_int") if t in core.integrate else ("core.w", "core.c")
        wiped = t == 0 or t - 1 in core.store
        before = np.zeros((BATCH, SIZE)) if wiped else found.steps[t - 1].output
        close(f"slow at {t}", before @ p[w].T + x @ p[c].T, step.slow)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_core_without_fast_memory_has_states_alone(backend: Backend, kind: str) -> None:
    spec = spec_of({"kind": kind, "size": SIZE})
    compiled, p, found = traced(backend, spec)
    want, _ = compiled.states(p["encoder.weight"][INPUTS])
    close("outputs", want, np.stack([step.output for step in found.steps], 1))
    close("scores", compiled.forward(INPUTS), found.scores)
    assert all((s.slow, s.reads, s.matrix) == (None, (), None) for s in found.steps)


def test_effective_rank_and_spectrum_of_known_matrices() -> None:
    assert effective_rank(np.eye(4)) == pytest.approx(4)
    assert effective_rank(np.outer([1, 2, 3], [1, 2, 3])) == pytest.approx(1)
    assert effective_rank(np.zeros((3, 3))) == 0
    shares = np.array([0.5, 0.25, 0.25])
    want = np.exp(-(shares * np.log(shares)).sum())
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert effective_rank(turn @ np.diag(8 * shares) @ turn.T) == pytest.approx(want)
    np.testing.assert_allclose(spectrum(turn @ np.diag([1.0, 5.0, 2.0]) @ turn.T), [5, 2, 1])
