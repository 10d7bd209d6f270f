"""Gradients for hidden states and Jacobians, held against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import Backend
from fwt.fwcore.analysis import flow
from fwt.fwcore.errors import BackendError, ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases, oracle
from tests.cases import Engine
from tests.conftest import need
from tests.tolerances import assert_close

SIZE, BATCH, TIME = 4, 3, 6
INPUTS = np.random.default_rng(3).integers(0, 9, (BATCH, TIME))
TARGETS = np.array([2, 0, 1])
STEP = 1e-6

VARIANTS = (
    "fast-sum-final-boundary-S1-flat",
    "fast-sum-final-boundary-S3-levels",
    "fast-none-final-boundary-S1-store",
    "fast-sum-preliminary-boundary-S1-wipe",
    "rnn-tanh-none",
    "lstm-layer",
    "gru-none",
    "alstm-3",
)


def spec_of(core: dict[str, Any]) -> ModelSpec:
    encoder = {"kind": "embedding", "symbols": 9, "size": 3}
    return ModelSpec.parse({"encoder": encoder, "core": core, "head": {"classes": 3}}, "test")


def variant_spec(variant: str) -> ModelSpec:
    return spec_of(cases.core_of(variant, SIZE))


def continued(reference: Any, x: NumpyArray, state: dict[str, NumpyArray], t: int) -> NumpyArray:
    """The outputs after step t, from the state after it."""
    return reference.states(x[:, t + 1 :], state, t + 1)[0]


def state_after(reference: Any, x: NumpyArray, t: int) -> dict[str, NumpyArray]:
    return reference.states(x[:, : t + 1])[1]


def nudged(
    spec: ModelSpec, state: dict[str, NumpyArray], h: NumpyArray, t: int, delta: NumpyArray
) -> Any:
    """The state after step t if h(t) had been larger: the memory's last write is made anew."""
    core: Any = spec.core
    moved = dict(state)
    if spec.core.kind != "fast-weights":
        return moved | {"h": state["h"] + delta}
    stored = core.store is None or t in core.store
    if not (stored and core.wipe):
        moved["h"] = state["h"] + delta
    if stored and core.write == "final":
        old, new = (core.rate * np.einsum("bi,bj->bij", v, v) for v in (h, h + delta))
        moved["A"] = state["A"] - old + new
    return moved


def losses(params: dict[str, NumpyArray], spec: ModelSpec, h: NumpyArray) -> NumpyArray:
    """The cross-entropy of each example from its last output."""
    hidden = oracle.relu(oracle.linear(params["head.hidden.weight"], params["head.hidden.bias"], h))
    scores = oracle.linear(params["head.output.weight"], params["head.output.bias"], hidden)
    rows = zip(oracle.log_softmax(scores), TARGETS, strict=True)
    return np.array([-row[target] for row, target in rows])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_loss_are_its_differences(training_backend: Backend, variant: str) -> None:
    """The state after step t is changed and the rest computed again, by the reference backend."""
    spec = variant_spec(variant)
    params = cases.params_of(spec)
    compiled = Engine(training_backend, "float64").compile(spec, params)
    got = flow.loss_gradients(compiled, INPUTS, TARGETS)
    assert got.shape == (TIME, BATCH, SIZE)
    reference = need("numpy").compile(spec, params)
    x = params["encoder.weight"][INPUTS]
    outputs, _ = reference.states(x)
    for t in range(TIME - 1):
        want = np.zeros((BATCH, SIZE))
        state = state_after(reference, x, t)
        for unit in range(SIZE):
            delta = np.zeros((BATCH, SIZE))
            delta[:, unit] = STEP
            ends = [
                continued(reference, x, nudged(spec, state, outputs[:, t], t, d), t)[:, -1]
                for d in (delta, -delta)
            ]
            up, down = (losses(params, spec, h) for h in ends)
            want[:, unit] = (up - down) / (2 * STEP)
        assert_close(f"dE/dh({t})", want, got[t], "gradients", "float64", "oracle", floor=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_jacobians_are_differences_of_later_states(training_backend: Backend, variant: str) -> None:
    spec = variant_spec(variant)
    params = cases.params_of(spec)
    compiled = Engine(training_backend, "float64").compile(spec, params)
    reference = need("numpy").compile(spec, params)
    x = params["encoder.weight"][INPUTS[:1]]
    outputs, _ = reference.states(x)
    for t, to in ((0, 1), (1, 4), (4, 5)):
        state = state_after(reference, x, t)
        want = np.zeros((SIZE, SIZE))
        for unit in range(SIZE):
            delta = np.zeros((1, SIZE))
            delta[0, unit] = STEP
            up, down = (
                continued(reference, x, nudged(spec, state, outputs[:, t], t, d), t)[0, to - t - 1]
                for d in (delta, -delta)
            )
            want[:, unit] = (up - down) / (2 * STEP)
        got = flow.jacobians(compiled, INPUTS[0], [5, to])[t, 1]
        assert_close(f"dh({to})/dh({t})", want, got, "gradients", "float64", "oracle", floor=1e-3)


@pytest.mark.parametrize("copies", [flow.COPIES, 2 * SIZE, 1])
def test_norms_are_means_over_examples(
    training_backend: Backend, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "COPIES", copies)
    spec = variant_spec(VARIANTS[0])
    compiled = Engine(training_backend, "float64").compile(spec, cases.params_of(spec))
    found = flow.flow(compiled, INPUTS, TARGETS, 2)
    gradients = flow.loss_gradients(compiled, INPUTS, TARGETS)
    assert found.loss == pytest.approx(np.sqrt((gradients**2).sum(-1)).mean(1))
    near, far = (
        [np.linalg.svd(flow.jacobians(compiled, x, [to])[2, 0])[1][0] for x in INPUTS[:2]]
        for to in (3, TIME - 1)
    )
    assert found.jacobians[2] == pytest.approx(np.mean(near))
    assert found.reach[2] == pytest.approx(np.mean(far))
    assert found.jacobians[-1] == pytest.approx(found.reach[-1])


def test_a_plain_network_forgets_as_its_recurrent_weights_say(training_backend: Backend) -> None:
    """h(t) = 0.5 h(t-1) + ... for positive sums: every Jacobian is I / 2, and they multiply."""
    spec = spec_of({"kind": "rnn", "size": SIZE, "activation": "relu"})
    params = cases.params_of(spec)
    params |= {"core.wh": 0.5 * np.eye(SIZE), "core.bias": np.full(SIZE, 50.0)}
    compiled = Engine(training_backend, "float64").compile(spec, params)
    found = flow.flow(compiled, INPUTS, TARGETS, 1)
    np.testing.assert_allclose(found.jacobians, 0.5)
    np.testing.assert_allclose(found.reach, 0.5 ** np.arange(TIME - 1, 0, -1))
    np.testing.assert_allclose(found.loss, found.loss[-1] * 0.5 ** np.arange(TIME - 1, -1, -1))


def test_what_has_no_flow_is_refused() -> None:
    spec = spec_of({"kind": "rnn", "size": SIZE})
    reference = need("numpy").compile(spec, cases.params_of(spec))
    with pytest.raises(BackendError, match="no gradients"):
        flow.loss_gradients(reference, INPUTS, TARGETS)
    pictures = ModelSpec.parse(
        {
            "encoder": {"kind": "identity", "features": 49},
            "core": {"kind": "convnet", "size": SIZE, "steps": 2},
            "head": {"classes": 3},
        },
        "test",
    )
    compiled = need("torch").compile(pictures, cases.params_of(pictures))
    with pytest.raises(ConfigError, match="'convnet' is not recurrent"):
        flow.loss_gradients(compiled, np.zeros((3, 2, 49)), TARGETS)
