"""Specs: exact in JSON, frozen, strict about keys, clear about every bad value."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pydantic
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from fwt.fwcore.cells import cells, presets
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.frozen import Frozen
from fwt.fwcore.spec import ModelSpec, ReportSpec, RunSpec, TrainSpec
from tests.plain_spec import MODEL, RUN, put

COUNT = st.integers(1, 10**6)
EPOCHS = st.floats(0, 1e6, exclude_min=True)
POSITIVE = st.floats(0, allow_infinity=False, exclude_min=True)
NOT_NEGATIVE = st.floats(0, allow_infinity=False)
FRACTION = st.floats(0, 1, exclude_max=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.lists(st.integers(0, 99), max_size=4)

ENCODERS = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("embedding"), "symbols": COUNT}, optional={"size": COUNT}
    ),
    st.fixed_dictionaries({"kind": st.just("one-hot"), "symbols": COUNT}),
    st.fixed_dictionaries({"kind": st.just("linear"), "features": COUNT}, optional={"size": COUNT}),
    st.fixed_dictionaries({"kind": st.just("identity"), "features": COUNT}),
)


def optional(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), "size": COUNT}, optional=fields)


CORES = {
    "fast-weights": optional(
        "fast-weights",
        decay=st.floats(0, 1, exclude_min=True, exclude_max=True),
        rate=POSITIVE,
        inner_steps=st.integers(0, 9),
        norm=st.sampled_from(["sum", "none", "slow", "both"]),
        write=st.sampled_from(["final", "preliminary"]),
        sustained=st.sampled_from(["boundary", "identity", "preliminary"]),
        bias=st.just(True),  # false is left out of the JSON
        trained=st.booleans(),
        init_scale=FINITE,
        store=st.none() | STEPS,
        wipe=st.booleans(),
        integrate=STEPS,
    ),
    "rnn": optional(
        "rnn",
        activation=st.sampled_from(["relu", "tanh"]),
        norm=st.sampled_from(["none", "layer"]),
        recurrent_init=st.sampled_from(["uniform", "identity"]),
        init_scale=FINITE,
    ),
    "lstm": optional("lstm", norm=st.sampled_from(["none", "layer"]), forget_bias=FINITE),
    "gru": optional("gru", norm=st.sampled_from(["none", "layer"])),
    "alstm": optional("alstm", copies=st.integers(1, 1000), forget_bias=FINITE).map(
        lambda core: {**core, "size": 2 * core["size"]}
    ),
    "convnet": optional("convnet", steps=COUNT),
}

MODELS = st.fixed_dictionaries(
    {
        "encoder": ENCODERS,
        "core": st.one_of(*CORES.values()),
        "head": st.fixed_dictionaries(
            {"classes": COUNT},
            optional={"hidden": st.integers(0, 999), "kind": st.just("classes")},
        ),
    }
)

STAGES = st.builds(
    lambda until, length: {"until": until, "epochs": None, "steps": None, **length},
    COUNT,
    st.one_of(st.fixed_dictionaries({"epochs": EPOCHS}), st.fixed_dictionaries({"steps": COUNT})),
)

TRAININGS = st.builds(
    lambda length, rest: {**rest, **length},
    st.one_of(st.fixed_dictionaries({"epochs": EPOCHS}), st.fixed_dictionaries({"steps": COUNT})),
    st.fixed_dictionaries(
        {},
        optional={
            "optimizer": st.just("adam"),
            "lr": POSITIVE,
            "schedule": st.sampled_from(["constant", "cosine"]),
            "beta1": FRACTION,
            "beta2": FRACTION,
            "epsilon": POSITIVE,
            "weight_decay": NOT_NEGATIVE,
            "batch_size": COUNT,
            "earlier": st.lists(STAGES, min_size=1, max_size=2),  # none is left out of the JSON
            "clip": NOT_NEGATIVE,
            "dropout": FRACTION,
            "head_dropout": FRACTION,
            "seed": st.integers(-(2**70), 2**70),
            "dtype": st.sampled_from(["float32", "float64", "bfloat16"]),
            "precision": st.sampled_from(["highest", "tf32"]),
        },
    ),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)

RUNS = st.fixed_dictionaries(
    {
        "task": st.dictionaries(st.text(max_size=5), JSON, max_size=3),
        "model": MODELS,
        "train": TRAININGS,
    },
    optional={
        "recipe": st.text(max_size=9),
        "init": st.fixed_dictionaries(
            {
                "path": st.text(st.characters(codec="utf-8"), min_size=1, max_size=9),
                "sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
            },
            optional={"layout": st.sampled_from(["fwt", "torch", "mlx"])},
        ),
        "format_version": st.just(1),
        "report": st.fixed_dictionaries(
            {},
            optional={
                "log_every": COUNT,
                "eval_every": st.integers(0, 99),
                "save_every": st.integers(0, 99),
                "keep": COUNT,
            },
        ),
    },
)


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        RunSpec.parse(data, "here")
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


# --- JSON ---------------------------------------------------------------------------------


def round_trip(cls: type[Frozen], data: dict[str, Any]) -> None:
    """Through JSON text and back: equal, of one digest, and every given value kept."""
    spec = cls.parse(data, "test")
    again = cls.parse(json.loads(json.dumps(spec.json_data())), "test")
    assert again == spec
    assert again.digest() == spec.digest()
    assert again.json_data() == spec.json_data()
    kept(data, spec.json_data())


def kept(given: Any, found: Any) -> None:
    if isinstance(given, dict):
        for key, value in given.items():
            kept(value, found[key])
    else:
        assert found == given


@settings(max_examples=150, deadline=None)
@given(data=MODELS)
def test_a_model_goes_through_json(data: dict[str, Any]) -> None:
    round_trip(ModelSpec, data)


@settings(max_examples=150, deadline=None)
@given(data=TRAININGS)
def test_a_training_goes_through_json(data: dict[str, Any]) -> None:
    round_trip(TrainSpec, data)


@settings(max_examples=100, deadline=None)
@given(data=RUNS)
def test_a_run_goes_through_json(data: dict[str, Any]) -> None:
    round_trip(RunSpec, data)


@settings(max_examples=100, deadline=None)
@given(one=TRAININGS, other=TRAININGS)
def test_digests_are_equal_where_specs_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = TrainSpec.parse(one, "test"), TrainSpec.parse(other, "test")
    assert (first == second) == (first.digest() == second.digest())


def test_a_field_added_later_changes_no_hash_while_it_has_its_default() -> None:
    core = {"kind": "fast-weights", "size": 20}
    old = {"encoder": {"kind": "embedding", "symbols": 37}, "core": core, "head": {"classes": 10}}
    spec = ModelSpec.parse(old, "test")
    assert "bias" not in spec.json_data()["core"]
    assert spec.digest() == "eb25016d"  # of this model before there was a bias
    assert ModelSpec.parse({**old, "core": {**core, "bias": False}}, "test").digest() == "eb25016d"
    with_bias = ModelSpec.parse({**old, "core": {**core, "bias": True}}, "test")
    assert with_bias.json_data()["core"]["bias"] is True
    assert with_bias.digest() != spec.digest()


def test_a_norm_over_the_batch_is_refused_with_the_reason() -> None:
    message = refusal(put("model.core.norm", "batch"))
    for words in ("depend on the other examples", "take sum", "got", "norm='batch'"):
        assert words in message


def test_every_field_of_every_spec_is_drawn_above() -> None:
    """A new field must join the round trip."""
    assert set(CORES) == set(cells())
    for kind, cell in cells().items():
        assert not never_drawn(CORES[kind], cell.Spec), kind
    assert not never_drawn(TRAININGS, TrainSpec)
    assert not never_drawn(RUNS, RunSpec)
    assert not never_drawn(RUNS.map(lambda data: data.get("report", {})), ReportSpec)


def never_drawn(strategy: st.SearchStrategy[dict[str, Any]], spec: type[Frozen]) -> set[str]:
    """The fields that no draw has. How soon one comes depends on the modules that are loaded."""
    left = set(spec.model_fields)
    enough = settings(
        max_examples=2000, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
    )

    def seen(data: dict[str, Any]) -> bool:
        left.difference_update(data)
        return not left

    with suppress(NoSuchExample):
        find(strategy, seen, settings=enough)
    return left


def test_every_preset_is_a_spec() -> None:
    assert set(presets()) == {"fast-weights", "rnn", "irnn", "lstm", "gru", "alstm", "convnet"}
    for name, fields in presets().items():
        spec = ModelSpec.parse({**MODEL, "core": {**fields, "size": 8}}, "test")
        assert spec.core.size == 8
        for key, value in fields.items():
            assert getattr(spec.core, key) == value, name


# --- frozen -------------------------------------------------------------------------------


def test_no_field_can_be_changed() -> None:
    run = RunSpec.parse(RUN, "test")
    objects = [run, run.model, run.train, run.report]
    objects += [run.model.encoder, run.model.core, run.model.head]
    for spec in objects:
        before = spec.digest()
        for name in type(spec).model_fields:
            with pytest.raises(pydantic.ValidationError, match="frozen"):
                setattr(spec, name, getattr(spec, name))
        assert spec.digest() == before


# --- unknown keys -------------------------------------------------------------------------

UNKNOWN = {
    "trian": "train",
    "train.lerning_rate": None,
    "train.batchsize": "batch_size",
    "train.schedul": "schedule",
    "report.log_evry": "log_every",
    "model.heads": "head",
    "model.head.clases": "classes",
    "model.encoder.symbol": "symbols",
    "model.encoder.siez": "size",
    "model.core.inner_step": "inner_steps",
    "model.core.decays": "decay",
}


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_key_is_refused_with_the_nearest(path: str) -> None:
    message = refusal(put(path, 1))
    assert repr(path.rsplit(".", 1)[-1]).strip("'") in message
    assert "unknown key" in message
    if UNKNOWN[path]:
        assert f"did you mean '{UNKNOWN[path]}'?" in message
    else:
        assert "known: " in message
        assert "batch_size" in message


def test_all_unknown_keys_are_named_at_once() -> None:
    data = put("train.lrr", 1)
    data["train"]["klip"] = 2
    data["report"] = {"kep": 3}
    message = refusal(data)
    for key in ("train.lrr", "train.klip", "report.kep"):
        assert f"unknown key '{key}'" in message


def test_unknown_kinds_are_refused_with_the_nearest() -> None:
    message = refusal(put("model.core.kind", "fast-weight"))
    assert "'fast-weight'" in message
    assert "did you mean 'fast-weights'?" in message
    message = refusal(put("model.encoder.kind", "embeding"))
    assert "embeding" in message
    assert "embedding" in message


# --- bad values ---------------------------------------------------------------------------

BAD: list[tuple[str, Any]] = [
    ("train.lr", 0),
    ("train.lr", -1e-3),
    ("train.lr", "fast"),
    ("train.lr", float("nan")),
    ("train.lr", float("inf")),
    ("train.optimizer", "sgd"),
    ("train.schedule", "linear"),
    ("train.beta1", 1.0),
    ("train.beta2", -0.1),
    ("train.epsilon", 0.0),
    ("train.weight_decay", -1),
    ("train.batch_size", 0),
    ("train.batch_size", 1.5),
    ("train.epochs", 0),
    ("train.epochs", -2),
    ("train.clip", -1),
    ("train.dropout", 1.0),
    ("train.head_dropout", -0.5),
    ("train.seed", 0.5),
    ("train.seed", "zero"),
    ("train.dtype", "float16"),
    ("train.precision", "low"),
    ("report.log_every", 0),
    ("report.eval_every", -1),
    ("report.save_every", -1),
    ("report.keep", 0),
    ("model.head.classes", 0),
    ("model.head.hidden", -1),
    ("model.encoder.symbols", 0),
    ("model.encoder.size", "large"),
    ("model.core.size", 0),
    ("model.core.decay", 0.0),
    ("model.core.decay", 1.01),
    ("model.core.rate", 0.0),
    ("model.core.inner_steps", -1),
    ("model.core.norm", "layer"),
    ("model.core.write", "late"),
    ("model.core.sustained", "input"),
    ("model.core.trained", "perhaps"),
    ("model.core.store", [-1]),
    ("model.core.integrate", ["two"]),
    ("format_version", 2),
    ("recipe", 3),
]


@pytest.mark.parametrize(("path", "value"), BAD)
def test_a_bad_value_is_named_with_its_field(path: str, value: Any) -> None:
    message = refusal(put(path, value))
    assert message.startswith("here: ") or path.startswith("model.core")
    assert path.rsplit(".", 1)[-1] in message
    shown = value[0] if isinstance(value, list) else value
    assert f"={shown!r}" in message


def test_what_is_missing_is_named() -> None:
    for path in ("task", "model", "train", "model.core", "model.head.classes", "model.core.size"):
        data = put("recipe", "")
        *tables, leaf = path.split(".")
        at = data
        for table in tables:
            at = at[table]
        del at[leaf]
        message = refusal(data)
        assert leaf in message
        assert "got none" in message or "unknown cell" in message, message


@pytest.mark.parametrize("length", [{}, {"epochs": 3, "steps": 4}])
def test_exactly_one_of_epochs_and_steps(length: dict[str, Any]) -> None:
    message = refusal({**RUN, "train": length})
    assert "exactly one of epochs and steps" in message
    assert (
        f"epochs={length.get('epochs')}, steps={length.get('steps')}".replace("=3", "=3.0")
        in message
    )


def test_a_trained_decay_of_1_is_refused() -> None:
    data = put("model.core.decay", 1.0)
    data["model"]["core"]["trained"] = True
    message = refusal(data)
    assert "trained" in message
    assert "decay < 1" in message
    data["model"]["core"]["trained"] = False
    assert RunSpec.parse(data, "here").model.core.json_data()["decay"] == 1.0


def test_total_steps_are_whole_batches() -> None:
    assert TrainSpec(steps=7).total_steps(10**6) == 7
    assert TrainSpec(epochs=2, batch_size=128).total_steps(1000) == 2 * 7
    assert TrainSpec(epochs=0.5, batch_size=10).total_steps(100) == 5
    assert TrainSpec(epochs=0.001, batch_size=10).total_steps(100) == 1
