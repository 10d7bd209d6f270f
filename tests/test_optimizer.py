"""Adam, weight decay, clipping and the learning rate, against formulas of single numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import TrainSpec
from fwt.fwcore.training.batches import Split
from fwt.fwcore.training.schedule import learning_rate
from tests import cases
from tests.cases import Engine
from tests.cli_tools import python
from tests.conftest import engine
from tests.tolerances import assert_close

INPUTS, BATCH, TIME = 3, 8, 4

SPEC = cases.core_only({"kind": "lstm", "size": 4, "norm": "layer"}, INPUTS)
PARAMS = cases.params_of(SPEC, seed=21)
X = cases.noise(22, 25, BATCH, TIME, INPUTS)
TARGETS = np.random.default_rng(23).integers(2, size=(25, BATCH))
DATA = Split(X.reshape(-1, TIME, INPUTS), TARGETS.reshape(-1))

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "betas": {"beta1": 0.5, "beta2": 0.9},
    "no momentum": {"beta1": 0.0},
    "large epsilon": {"epsilon": 0.05},  # inside the root it would count as 0.22
    "decay": {"weight_decay": 2.0},
    "clip": {"clip": 0.02},
    "no clip": {"clip": 1e6},
    "all": {"epsilon": 0.01, "weight_decay": 0.5, "clip": 0.1, "beta1": 0.8},
}


def rows_of(step: int) -> NumpyArray:
    """The examples of `DATA` that are X[step]."""
    return np.arange(step * BATCH, (step + 1) * BATCH)


def rate_of(step: int) -> float:
    return 0.02 / (1 + step / 20)


@dataclass
class Numbers:
    """Weights, moments and the gradient norm as float64."""

    p: dict[str, NumpyArray]
    m: dict[str, NumpyArray]
    v: dict[str, NumpyArray]
    norm: float = 0.0


def numbers_of(made: Any) -> Numbers:
    state = {name: array.astype(np.float64) for name, array in made.optimizer_state().items()}
    return Numbers(
        {name: array.astype(np.float64) for name, array in made.parameters().items()},
        {name: state[f"m.{name}"] for name in PARAMS},
        {name: state[f"v.{name}"] for name in PARAMS},
    )


def adam(train: TrainSpec, at: Numbers, g: dict[str, NumpyArray], step: int) -> Numbers:
    """Update `step` (from 0), number by number."""
    t, lr = step + 1, rate_of(step)
    norm = math.sqrt(math.fsum(float(e) ** 2 for a in g.values() for e in a.ravel()))
    scale = min(1.0, train.clip / (norm + 1e-6)) if train.clip else 1.0  # torch's own rule
    new = Numbers(*({n: a.copy() for n, a in part.items()} for part in (at.p, at.m, at.v)), norm)
    for name, array in new.p.items():
        for i in np.ndindex(array.shape):
            slope = scale * float(g[name][i])
            m = train.beta1 * float(at.m[name][i]) + (1 - train.beta1) * slope
            v = train.beta2 * float(at.v[name][i]) + (1 - train.beta2) * slope**2
            mean, root = m / (1 - train.beta1**t), math.sqrt(v / (1 - train.beta2**t))
            kept = 1 - lr * train.weight_decay if array.ndim == 2 else 1.0
            array[i] = kept * array[i] - lr * mean / (root + train.epsilon)
            new.m[name][i], new.v[name][i] = m, v
    return new


def check_update(made: Any, dtype: str, train: TrainSpec, step: int) -> float:
    """One update against the formula, from the weights and moments that the model has.

    The way that each weight goes is compared, not where it comes to.
    """
    before = numbers_of(made)
    _, slopes = made.gradients(X[step], TARGETS[step])
    want = adam(train, before, slopes, step)
    stats = made.fetch([made.train_step(rows_of(step), rate_of(step), None)])
    after = numbers_of(made)
    for name in PARAMS:
        label, pair = f"step {step} {name}", (dtype, "oracle")
        way, gone = want.p[name] - before.p[name], after.p[name] - before.p[name]
        assert np.abs(way).max() > 1e-4, label
        assert_close(label, way, gone, "updates", *pair, floor=rate_of(step))
        assert_close(f"{label} m", want.m[name], after.m[name], "moments", *pair)
        assert_close(f"{label} v", want.v[name], after.v[name], "moments", *pair)
    assert stats[0, 2] == pytest.approx(want.norm, rel=1e-5), "the norm is that before clipping"
    return want.norm


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", SETTINGS)
def test_twenty_updates_are_those_of_the_formula(name: str, training_engine: Engine) -> None:
    train = TrainSpec(steps=20, **SETTINGS[name])
    made = training_engine.compile(SPEC, PARAMS)
    made.begin_training(train, DATA)
    norms = [check_update(made, training_engine.dtype, train, step) for step in range(20)]
    if 0 < train.clip < 1:
        assert min(norms) > train.clip, "a gradient was not clipped"


def test_the_gradients_of_the_test_cover_matrices_and_vectors() -> None:
    assert {array.ndim for array in PARAMS.values()} == {1, 2}
    for param in model.parameters(SPEC):
        assert param.decays == (len(param.shape) == 2), param.name


@pytest.mark.usefixtures("eager")
def test_a_trained_scalar_does_not_decay(training_engine: Engine) -> None:
    spec = cases.core_only({"kind": "fast-weights", "size": 4, "trained": True}, INPUTS)
    params = cases.params_of(spec)
    made = training_engine.compile(spec, params)
    made.begin_training(TrainSpec(steps=1, weight_decay=50.0, lr=1e-9), DATA)
    made.train_step(rows_of(0), 1e-2, None)
    got = made.parameters()
    for param in model.parameters(spec):
        factor = 0.5 if param.decays else 1.0
        gap = np.abs(got[param.name] - factor * params[param.name]).max()
        assert gap <= 0.0101, f"{param.name}: Adam's first step is lr, and decay 1 - 0.01 * 50"


def test_mlx_traces_the_step_once_and_the_trace_is_the_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLX compiles here: another learning rate must be obeyed and must not trace anew."""
    traces = []
    logits = model.logits

    def counting(*args: Any) -> Any:
        traces.append(len(args))
        return logits(*args)

    train = TrainSpec(steps=20, **SETTINGS["all"])
    made = engine("mlx", "float32").compile(SPEC, PARAMS)
    made.begin_training(train, DATA)
    for step in range(3):
        check_update(made, "float32", train, step)
    monkeypatch.setattr(model, "logits", counting)
    made.begin_training(train, DATA)
    for step in range(6):
        made.train_step(rows_of(step), rate_of(step), None)
    assert len(traces) == 1
    made.train_step(rows_of(6)[:5], rate_of(6), None)
    assert len(traces) == 2, "the counter counts: another batch size is another trace"


def test_a_compiled_step_goes_on_from_loaded_weights_and_moments() -> None:
    """What a trace captured would be forgotten by a resume; here it must not be."""
    mlx = engine("mlx", "float32")
    train = TrainSpec(steps=20, **SETTINGS["all"])
    made = mlx.compile(SPEC, PARAMS)
    made.begin_training(train, DATA)
    halfway: dict[str, Any] = {}
    for step in range(4):
        if step == 2:
            halfway = {"weights": made.parameters(), "moments": made.optimizer_state()}
        made.train_step(rows_of(step), rate_of(step), None)
    want = made.parameters(), made.optimizer_state()
    made.load_parameters(halfway["weights"])
    made.load_optimizer_state(halfway["moments"], 2)
    for step in (2, 3):
        made.train_step(rows_of(step), rate_of(step), None)
    for wanted, got in zip(want, (made.parameters(), made.optimizer_state()), strict=True):
        assert {n: a.tobytes() for n, a in wanted.items()} == {
            n: a.tobytes() for n, a in got.items()
        }


WORKERS = """
import torch
from fwt import backends
from fwt.backends.torch.kernels.denormals import flushed

def zeros():
    return int((torch.full((1 << 20,), 1e-30) * 1e-10 == 0).sum())

backends.load("torch")
before = zeros()
for _ in range(3):
    with flushed():
        inside = zeros()
print(before, inside, zeros())
torch.set_num_threads(3)  # workers that were not there when the step began
with flushed():
    torch.set_num_threads(4)
    zeros()
print(zeros())
"""


def test_the_workers_of_torch_flush_in_a_step_and_nowhere_else() -> None:
    """A step's long products run on them; so do the caller's, which are not ours to change."""
    import torch

    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    done = python(WORKERS, OMP_NUM_THREADS="2")
    assert done.out.split() == ["0", str(1 << 20), "0", "0"], done.err


def test_torch_flushes_vanishing_numbers_in_a_step_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They cost a hundred times the work; but the caller's own numbers are not ours to change."""
    import torch

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    torch.set_flush_denormal(False)
    made = engine("torch", "float32").compile(SPEC, PARAMS)
    made.begin_training(TrainSpec(steps=1), DATA)
    seen: list[float] = []
    update = made._update

    def looking(*args: Any) -> Any:
        seen.append((torch.tensor([1e-30]) * 1e-10).item())
        return update(*args)

    monkeypatch.setattr(made, "_update", looking)
    made.train_step(rows_of(0), 1e-3, None)
    assert seen == [0.0]
    assert 5e-324 * float(len(seen)) > 0, "flushing ends with the step"
    torch.set_flush_denormal(True)
    try:
        made.train_step(rows_of(0), 1e-3, None)
        assert 5e-324 * float(len(seen)) == 0, "a caller who flushes goes on flushing"
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.usefixtures("eager")
def test_moments_begin_at_0_and_come_back_as_they_went_in(training_engine: Engine) -> None:
    made = training_engine.compile(SPEC, PARAMS)
    made.begin_training(TrainSpec(steps=1), DATA)
    names = [f"{k}.{n}" for n in PARAMS for k in ("m", "v")]
    first = made.optimizer_state()
    assert set(first) == set(names)
    assert not any(array.any() for array in first.values())
    kind = np.dtype(training_engine.dtype)
    given = {n: np.abs(cases.noise(31, *a.shape)).astype(kind) for n, a in first.items()}
    made.load_optimizer_state(given, 5)
    for name, array in made.optimizer_state().items():
        assert array.tobytes() == given[name].tobytes(), name


# --- learning rate ------------------------------------------------------------------------


def test_a_constant_rate_is_constant() -> None:
    train = TrainSpec(steps=10, lr=3e-3)
    assert {learning_rate(train, step, 10) for step in range(10)} == {3e-3}


def test_the_cosine_goes_from_lr_over_its_half_almost_to_0() -> None:
    train = TrainSpec(steps=8, lr=0.2, schedule="cosine")
    got = [learning_rate(train, step, 8) for step in range(8)]
    # 0.1 (1 + cos(k pi / 8)), the cosines from their closed forms
    eighth, quarter = math.sqrt(2 + math.sqrt(2)) / 2, math.sqrt(0.5)
    last = math.sqrt(2 - math.sqrt(2)) / 2
    cosines = [1, eighth, quarter, last, 0, -last, -quarter, -eighth]
    assert got == pytest.approx([0.1 * (1 + c) for c in cosines], abs=1e-15)
    assert all(a > b > 0 for a, b in pairwise(got))
