"""The whole network: logits, loss, dropout masks, the native module's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import Backend
from fwt.fwcore import model
from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.layers import encoder_outputs
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.training import batches
from fwt.fwcore.training.batches import Dropout, Split
from tests import cases, oracle
from tests.cases import Engine
from tests.tolerances import assert_close

BATCH, TIME, SYMBOLS, FEATURES, CLASSES = 3, 5, 7, 4, 6

ENCODERS: dict[str, dict[str, Any]] = {
    "embedding": {"kind": "embedding", "symbols": SYMBOLS, "size": 4},
    "one-hot": {"kind": "one-hot", "symbols": SYMBOLS},
    "linear": {"kind": "linear", "features": FEATURES, "size": 5},
    "identity": {"kind": "identity", "features": FEATURES},
}

pytestmark = pytest.mark.usefixtures("eager")


def encoder_of(encoder: str, variant: str) -> dict[str, Any]:
    """An encoder whose outputs, all of them 4 to 7 numbers, are as many as the core wants."""
    made = ENCODERS[encoder]
    outputs = {"one-hot": "symbols", "identity": "features"}.get(encoder, "size")
    return {**made, outputs: cases.inputs_of(variant, made[outputs])}


def network_spec(encoder: str, hidden: int, variant: str) -> ModelSpec:
    return ModelSpec.parse(
        {
            "encoder": encoder_of(encoder, variant),
            "core": cases.core_of(variant, 5),
            "head": {"hidden": hidden, "classes": CLASSES},
        },
        "test",
    )


def inputs_of(encoder: str, seed: int = 1, features: int = FEATURES) -> NumpyArray:
    if encoder in ("embedding", "one-hot"):
        return np.random.default_rng(seed).integers(SYMBOLS, size=(BATCH, TIME))
    return cases.noise(seed, BATCH, TIME, features)


def targets_of(seed: int = 2) -> NumpyArray:
    return np.random.default_rng(seed).integers(CLASSES, size=BATCH)


def oracle_logits(spec: ModelSpec, params: dict[str, NumpyArray], inputs: NumpyArray) -> NumpyArray:
    kind = spec.encoder.kind
    given = np.eye(spec.encoder.symbols)[inputs] if kind == "one-hot" else inputs
    encoder = "none" if kind in ("one-hot", "identity") else kind
    head = "hidden" if spec.head.hidden else "plain"
    core = cases.oracle_core(spec.core)
    return oracle.network(params, given, encoder=encoder, core=core, head=head)


@pytest.mark.parametrize("variant", cases.SOME)
@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_are_those_of_the_oracle(
    encoder: str, hidden: int, variant: str, engine: Engine
) -> None:
    spec = network_spec(encoder, hidden, variant)
    features = cases.inputs_of(variant, FEATURES) if encoder == "identity" else FEATURES
    params, inputs = cases.params_of(spec), inputs_of(encoder, features=features)
    got = engine.compile(spec, params).forward(inputs)
    want = oracle_logits(spec, params, inputs)
    assert_close("logits", want, got, "logits", engine.dtype, "oracle")


@pytest.mark.parametrize("variant", cases.SOME)
def test_the_loss_and_the_wrong_answers_are_counted(variant: str, engine: Engine) -> None:
    spec = network_spec("linear", 6, variant)
    params, inputs, targets = cases.params_of(spec), inputs_of("linear"), targets_of()
    want = oracle_logits(spec, params, inputs)
    loss = oracle.cross_entropy(want, targets)
    made = engine.compile(spec, params)
    summed, wrong = made.evaluate(inputs, targets)
    assert_close("sum", loss * BATCH, summed, "loss", engine.dtype, "oracle")
    assert wrong == sum(int(np.argmax(row)) != t for row, t in zip(want, targets, strict=True))
    best = want.argmax(1)
    assert made.evaluate(inputs, best)[1] == 0
    assert made.evaluate(inputs, (best + 1) % CLASSES)[1] == BATCH


def test_a_large_score_does_not_overflow_the_loss(engine: Engine) -> None:
    spec = network_spec("identity", 0, "rnn-tanh-none")
    params = cases.params_of(spec) | {"head.output.bias": np.array([900.0, 0, 0, 0, 0, -900.0])}
    made = engine.compile(spec, params)
    inputs = inputs_of("identity")
    want = oracle_logits(spec, params, inputs)
    for target in (0, 1, 5):
        targets = np.full(BATCH, target)
        summed, _ = made.evaluate(inputs, targets)
        loss = BATCH * oracle.cross_entropy(want, targets)
        assert_close(f"class {target}", loss, summed, "loss", engine.dtype, "oracle", floor=1e3)


def test_the_compiled_forward_is_the_eager_one(training_backend: Backend) -> None:
    """The one test here that lets MLX compile."""
    spec = network_spec("embedding", 0, "rnn-relu-none")
    params, inputs = cases.params_of(spec), inputs_of("embedding")
    eager = training_backend.compile(spec, params).forward(inputs)
    if training_backend.name == "mlx":
        import mlx.core as mx

        mx.enable_compile()
    compiled = training_backend.compile(spec, params)
    assert_close("logits", eager, compiled.forward(inputs), "logits", "float32", "self")
    changed = {name: 2 * array for name, array in params.items()}
    compiled.load_parameters(changed)
    want = oracle_logits(spec, changed, inputs)
    assert_close("new weights", want, compiled.forward(inputs), "logits", "float32", "oracle")


# --- dropout ------------------------------------------------------------------------------

FRACTIONS = (0.25, 0.5)


def masks_of(spec: ModelSpec, step: int = 3) -> Dropout:
    sizes = (encoder_outputs(spec.encoder), spec.core.size)
    found = batches.dropout(0, step, FRACTIONS, BATCH, sizes)
    assert found is not None
    return found


def oracle_dropped(spec: ModelSpec, params: dict[str, NumpyArray], masks: Dropout) -> float:
    """The loss with one mask for all time steps, and one for the last hidden state."""
    x = oracle.relu(
        oracle.linear(params["encoder.weight"], params["encoder.bias"], inputs_of("linear"))
    )
    for b in range(BATCH):
        for t in range(TIME):
            x[b, t] *= masks.inputs[b]
    h = cases.oracle_core(spec.core)(params, x)[0][:, -1] * masks.hidden
    v = oracle.relu(oracle.linear(params["head.hidden.weight"], params["head.hidden.bias"], h))
    scores = oracle.linear(params["head.output.weight"], params["head.output.bias"], v)
    return oracle.cross_entropy(scores, targets_of())


@pytest.mark.parametrize("variant", cases.SOME)
def test_dropout_is_one_mask_for_all_time_steps(variant: str, training_engine: Engine) -> None:
    spec = network_spec("linear", 6, variant)
    params, masks = cases.params_of(spec), masks_of(spec)
    made = training_engine.compile(spec, params)
    made.begin_training(TrainSpec(steps=1), Split(inputs_of("linear"), targets_of()))
    stats = made.fetch([made.train_step(np.arange(BATCH), 1e-3, masks)])
    want = oracle_dropped(spec, params, masks)
    plain = oracle.cross_entropy(oracle_logits(spec, params, inputs_of("linear")), targets_of())
    assert abs(want - plain) > 1e-3, "the masks have no effect that could be seen"
    assert_close("loss", want, stats[0, 0], "loss", training_engine.dtype, "oracle")


@pytest.mark.parametrize("only", ["inputs", "hidden"])
def test_each_mask_alone(only: str, training_engine: Engine) -> None:
    spec = network_spec("linear", 6, "lstm-none")
    params, masks = cases.params_of(spec), masks_of(spec)
    kept = masks._replace(**{name: None for name in masks._fields if name != only})
    full = masks._replace(**{n: np.ones_like(m) for n, m in masks._asdict().items() if n != only})
    made = training_engine.compile(spec, params)
    made.begin_training(TrainSpec(steps=1), Split(inputs_of("linear"), targets_of()))
    stats = made.fetch([made.train_step(np.arange(BATCH), 1e-3, kept)])
    want = oracle_dropped(spec, params, full)
    assert_close("loss", want, stats[0, 0], "loss", training_engine.dtype, "oracle")


def test_evaluation_drops_nothing(training_engine: Engine) -> None:
    spec = network_spec("linear", 6, "gru-none")
    made = training_engine.compile(spec, cases.params_of(spec))
    made.begin_training(
        TrainSpec(steps=1, dropout=0.5, head_dropout=0.5), Split(inputs_of("linear"), targets_of())
    )
    loss = oracle.cross_entropy(
        oracle_logits(spec, cases.params_of(spec), inputs_of("linear")), targets_of()
    )
    summed, _ = made.evaluate(inputs_of("linear"), targets_of())
    assert_close("sum", BATCH * loss, summed, "loss", training_engine.dtype, "oracle")


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_masks_keep_the_mean(fraction: float) -> None:
    mask = batches.dropout_mask(0, "inputs", 0, fraction, (200, 500))
    assert mask is not None
    assert mask.dtype == np.float32
    kept = np.float32(1 / (1 - fraction))
    assert set(np.unique(mask).tolist()) == {0.0, float(kept)}
    deviation = np.sqrt(fraction / (1 - fraction) / mask.size)  # of the mean of the mask
    assert abs(float(mask.mean(dtype=np.float64)) - 1) < 5 * deviation


def test_masks_are_pure_in_seed_place_and_step() -> None:
    def mask(seed: int = 0, where: str = "inputs", step: int = 4) -> bytes:
        found = batches.dropout_mask(seed, where, step, 0.5, (8, 9))
        assert found is not None
        return found.tobytes()

    assert mask() == mask()
    others = [mask(seed=1), mask(where="hidden"), mask(step=5), mask(step=0)]
    assert len({mask(), *others}) == 5


def test_masks_of_a_batch_are_those_of_their_places() -> None:
    both = batches.dropout(3, 7, FRACTIONS, 4, (5, 6))
    assert both is not None
    assert np.array_equal(both.inputs, batches.dropout_mask(3, "inputs", 7, 0.25, (4, 5)))
    assert np.array_equal(both.hidden, batches.dropout_mask(3, "hidden", 7, 0.5, (4, 6)))
    assert batches.dropout(3, 7, (0.0, 0.0), 4, (5, 6)) is None
    one = batches.dropout(3, 7, (0.0, 0.5), 4, (5, 6))
    assert one is not None
    assert one.inputs is None
    assert one.hidden is not None


# --- weights in and out -------------------------------------------------------------------


def test_parameters_come_back_as_they_went_in(engine: Engine) -> None:
    spec = network_spec("linear", 6, "fast-sum-final-boundary-S3-levels")
    params = cases.params_of(spec)
    made = engine.compile(spec, params)
    for _ in range(2):
        found = made.parameters()
        assert list(found) == [p.name for p in model.parameters(spec)]
        for name, array in params.items():
            assert found[name].dtype == np.dtype(engine.dtype)
            assert np.array_equal(found[name], array), name
        found["core.w"][:] = 7.0  # a copy: the model does not change
    made.load_parameters(cases.params_of(spec, seed=9))
    for name, array in cases.params_of(spec, seed=9).items():
        assert np.array_equal(made.parameters()[name], array), name


def test_no_params_are_the_first_weights_of_seed_0(backend: Backend) -> None:
    spec = network_spec("embedding", 6, "lstm-none")
    first = cases.initialise(model.parameters(spec), 0)
    for name, array in backend.compile(spec).parameters().items():
        assert np.array_equal(array.astype(np.float32), first[name]), name


def test_every_misfit_is_named(backend: Backend) -> None:
    spec = network_spec("identity", 0, "gru-none")
    params = cases.params_of(spec)
    wrong = {
        "core.wx": params["core.wx"].T,
        "core.wh": params["core.wh"] * np.nan,
        "core.bias": params["core.bias"].astype(np.int64),
        "head.output.weight": params["head.output.weight"],
        "head.output.bias": params["head.output.bias"],
        "core.extra": np.zeros(2),
    }
    for refuse in (
        lambda: backend.compile(spec, wrong),
        lambda: backend.compile(spec, params).load_parameters(wrong),
    ):
        with pytest.raises(CheckpointError) as caught:
            refuse()
        for phrase in (
            "missing 'core.bias_n'",
            "extra 'core.extra'",
            "'core.wx' has shape (4, 15), expected (15, 4) (transposed?)",
            "'core.wh' holds numbers that are not finite",
            "'core.bias' has type int64",
        ):
            assert phrase in str(caught.value)


def test_the_native_module_has_the_canonical_names(training_backend: Backend) -> None:
    spec = network_spec("linear", 6, "fast-sum-final-boundary-S1-integrate")
    module = training_backend.compile(spec).module
    if training_backend.name == "torch":
        names = list(module.state_dict())
    else:
        from mlx.utils import tree_flatten

        names = [name for name, _ in tree_flatten(module.parameters())]
    assert sorted(names) == sorted(p.name for p in model.parameters(spec))
