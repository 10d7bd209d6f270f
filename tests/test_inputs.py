"""What a model may be given: the same on every backend; what it may not spoils nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.backends.contract import Backend
from fwt.fwcore.errors import CheckpointError, ConfigError
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.training.batches import Split
from tests import cases
from tests.conftest import need
from tools import misuse

SYMBOLS = np.array([[1, 2, 3], [0, 9, 4]])
NUMBERS = np.full((2, 3, 5), 0.5, np.float32)


def spec_of(encoder: dict[str, Any], core: dict[str, Any] | None = None) -> ModelSpec:
    core = core or {"kind": "fast-weights", "size": 4}
    return ModelSpec.parse({"encoder": encoder, "core": core, "head": {"classes": 10}}, "test")


EMBEDDING = spec_of({"kind": "embedding", "symbols": 10})
LINEAR = spec_of({"kind": "linear", "features": 5})
CONVNET = spec_of({"kind": "identity", "features": 49}, {"kind": "convnet", "size": 4, "steps": 24})

WRONG: list[tuple[ModelSpec, Any, str]] = [
    (EMBEDDING, np.array([[10**6]]), "expected symbols from 0 to 9, got 1000000"),
    (EMBEDDING, np.array([[-1]]), "expected symbols from 0 to 9, got -1"),
    (EMBEDDING, SYMBOLS.astype(float), "got dtype=float64, shape=(2, 3)"),
    (EMBEDDING, SYMBOLS > 1, "got dtype=bool"),
    (EMBEDDING, SYMBOLS[0], "whole numbers (B, T), got dtype=int64, shape=(3,)"),
    (EMBEDDING, "c9k8j3f1??c", "expected an array of numbers, got dtype=<U11"),
    (EMBEDDING, [[1, 2], [3]], "expected an array of numbers, got setting an array element"),
    (EMBEDDING, SYMBOLS[:0], "at least one sequence"),
    (LINEAR, (255 * NUMBERS).astype(np.uint8), "divide pixels by their largest value"),
    (LINEAR, NUMBERS[..., :4], "of shape (any, any, 5), got shape=(2, 3, 4)"),
    (LINEAR, SYMBOLS, "expected floating numbers (B, T, features), got dtype=int64"),
    (CONVNET, np.zeros((2, 25, 49), np.float32), "steps=24 time steps, got a sequence of 25"),
]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("spec", "wrong", "words"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_inputs_are_refused_alike(
    spec: ModelSpec, wrong: Any, words: str, backend: Backend
) -> None:
    model = backend.compile(spec)
    for call in (model.forward, model.trace, lambda bad: model.evaluate(bad, np.zeros(2, int))):
        with pytest.raises(ConfigError) as error:
            call(wrong)
        assert words in str(error.value)


@pytest.mark.usefixtures("eager")
def test_array_likes_are_what_their_numbers_are(backend: Backend) -> None:
    locked = SYMBOLS.copy()
    locked.flags.writeable = False
    twice = np.repeat(SYMBOLS, 2, 1)
    model = backend.compile(EMBEDDING)
    want = model.forward(SYMBOLS)
    for alike in (SYMBOLS.tolist(), SYMBOLS.astype(np.uint8), SYMBOLS[::-1][::-1], locked,
                  twice[:, ::2], SYMBOLS.astype(">i4"), np.asfortranarray(SYMBOLS)):  # fmt: skip
        assert np.array_equal(model.forward(alike), want)
    numbers = backend.compile(LINEAR)
    assert np.array_equal(numbers.forward(NUMBERS.astype(np.float16)), numbers.forward(NUMBERS))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("wrong", [10, -1, 200])
def test_a_class_that_is_none_is_refused(wrong: int, training_backend: Backend) -> None:
    model = training_backend.compile(EMBEDDING)
    targets = np.array([1, wrong])
    with pytest.raises(ConfigError, match=f"expected classes from 0 to 9, got {wrong}"):
        model.gradients(SYMBOLS, targets)
    train = TrainSpec.parse({"steps": 1, "batch_size": 2}, "test")
    with pytest.raises(ConfigError, match=f"got {wrong}"):
        model.begin_training(train, Split(SYMBOLS, targets))
    with pytest.raises(ConfigError, match="one for each of 2 examples, got 1"):
        model.evaluate(SYMBOLS, targets[:1])
    model.begin_training(train, Split(SYMBOLS, np.array([1, 2])))
    with pytest.raises(ConfigError, match="expected rows from 0 to 1, got 2"):
        model.train_step(np.array([0, 2]), 0.1, None)


def test_a_start_state_has_names_and_shapes(backend: Backend) -> None:
    model = backend.compile(EMBEDDING)
    x = np.zeros((2, 3, 100), np.float32)
    with pytest.raises(ConfigError, match=r"unknown name 'hh'; the core 'fast-weights' has h, A"):
        model.states(x, {"hh": np.zeros((2, 4), np.float32)})
    with pytest.raises(ConfigError, match=r"state 'A': .* shape \(2, 4, 4\), got shape=\(2, 4\)"):
        model.states(x, {"A": np.zeros((2, 4), np.float32)})
    with pytest.raises(ConfigError, match=r"first: expected .* got first=-1"):
        model.states(x, None, -1)
    with pytest.raises(ConfigError, match="got batch=0"):
        model.stream(0)


@pytest.mark.parametrize("variant", cases.SOME)
def test_every_cell_names_the_arrays_of_its_state(variant: str) -> None:
    inputs = cases.inputs_of(variant, 3)
    spec = cases.core_only(cases.core_of(variant, 4), inputs)
    _, state = need("numpy").compile(spec).states(cases.noise(1, 2, 3, inputs))
    shapes = {name: array.shape[1:] for name, array in state.items()}
    assert shapes.items() <= spec.core.state_shapes().items()
    assert set(spec.core.state_shapes()) - set(shapes) <= {"A"}  # where nothing was stored


def test_an_error_in_a_trace_leaves_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX captures the weights while it traces; memory may run out, or Ctrl-C come, in there."""
    model: Any = need("mlx").compile(EMBEDDING, memory="matrix")
    train = TrainSpec.parse({"steps": 2, "batch_size": 2}, "test")
    model.begin_training(train, Split(SYMBOLS, np.array([1, 2])))
    before, moments = model.parameters(), model.optimizer_state()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    rows = np.array([0, 1])
    with monkeypatch.context() as patch:
        patch.setattr("fwt.fwcore.layers.classify", interrupted)
        for call in (lambda: model.forward(SYMBOLS), lambda: model.train_step(rows, 0.1, None)):
            with pytest.raises(KeyboardInterrupt):
                call()
    for name, array in model.parameters().items():
        assert np.array_equal(array, before[name])
    for name, array in model.optimizer_state().items():
        assert np.array_equal(array, moments[name])
    assert np.isfinite(model.forward(SYMBOLS)).all()
    model.train_step(rows, 0.1, None)


def test_weights_and_moments_that_are_no_arrays_are_named(training_backend: Backend) -> None:
    model = training_backend.compile(EMBEDDING)
    weights = model.parameters()
    with pytest.raises(CheckpointError, match=r"'core.w' is of type list, expected a NumPy array"):
        model.load_parameters({**weights, "core.w": weights["core.w"].tolist()})
    model.load_parameters({**weights, "core.w": weights["core.w"][::-1]})
    assert np.array_equal(model.parameters()["core.w"], weights["core.w"][::-1])


@pytest.mark.usefixtures("eager")
def test_wrong_calls_are_answered_alike_and_spoil_nothing() -> None:
    """A part of `make misuse`, whose counts are stored."""
    names = list(backends.BACKENDS)
    for name in names:
        need(name)
    counts, faults = misuse.run(16, 1, names)
    assert not faults, faults[:5]
    assert all(sum(count.values()) >= 32 for count in counts.values())
    assert {"ConfigError", "CheckpointError", "taken"} == {
        kind for count in counts.values() for kind in count
    }
