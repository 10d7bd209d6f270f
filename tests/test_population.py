"""A population against the lone runs it stands for: losses, weights, folders, and who may fail.

Members differ in seed, learning rate, decay and rate; clipping, weight decay, dropout and a cosine
are on, so that all that a member has of its own is at work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.backends.contract import Compiled, compile_population
from fwt.fwcore.errors import BackendError, ConfigError, DivergedError, Interrupted
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import Data, Dropout
from fwt.fwcore.training.group import Hooks
from fwt.fwcore.training.loop import Result, train, train_together
from fwt.fwcore.training.population import own_rates
from tests.cases import Engine
from tests.cli_tools import clean_environment, snapshot
from tests.conftest import engine
from tests.equal_runs import metrics
from tests.population_cases import FAST, STEPS, folders_of, population, run_spec, split, weights_of
from tests.tolerances import assert_close

# seed, lr, decay, rate of each member
OWN = ((0, 2e-3, 0.95, 0.1), (7, 2e-3, 0.8, 0.1), (0, 5e-3, 0.95, 0.02), (3, 1e-3, 1.0, 0.05))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


def fast_specs(dtype: str = "float32", steps: int = 100) -> list[RunSpec]:
    return [
        run_spec(seed, lr, {**FAST, "decay": decay, "rate": rate}, dtype, steps)
        for seed, lr, decay, rate in OWN
    ]


@pytest.fixture(name="data", scope="module")
def _data() -> Data:
    return Data(split(1, 100), split(2, 50), split(3, 50))


@dataclass
class Listening:
    """A model or a population that keeps the losses that the loop fetches."""

    made: Any
    losses: list[Any] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def fetch(self, stats: Sequence[Any]) -> NumpyArray:
        found: NumpyArray = self.made.fetch(stats)
        self.losses += found[..., 0].tolist()
        return found


@dataclass
class Trained:
    """What a run left: the loss of each update, the weights and moments at its end, its folder."""

    losses: NumpyArray
    weights: dict[str, NumpyArray]
    moments: dict[str, NumpyArray]
    folder: Path
    outcome: Result


def together(
    on: Engine, specs: Sequence[RunSpec], data: Data, root: Path, memory: str = "auto"
) -> list[Trained]:
    made, folders = Listening(population(on, specs, memory)), folders_of(root, specs)
    outcomes = train_together(made, specs, data, folders)
    losses = np.array(made.losses)
    return [
        Trained(losses[:, i], *state(folders[i].path, specs[i]), folders[i].path, outcomes[i])
        for i in range(len(specs))
    ]


def alone(on: Engine, spec: RunSpec, data: Data, path: Path, memory: str = "auto") -> Trained:
    made = Listening(on.compile(spec.model, weights_of(spec), memory))
    with RunFolder.create(path, spec) as folder:
        outcome = train(made, spec, data, folder)
    return Trained(np.array(made.losses), *state(path, spec), path, outcome)


def state(path: Path, spec: RunSpec) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray]]:
    """Weights and moments of the last checkpoint."""
    found = checkpoint.read(path / "checkpoints" / f"step-{spec.train.steps:08d}")
    assert found.moments is not None
    return found.params, found.moments


def same_run(want: Trained, got: Trained, dtype: str) -> None:
    """Losses, weights, moments, metrics and files of a member are those of the lone run."""
    row = (dtype, "population")
    for step, pair in enumerate(zip(want.losses, got.losses, strict=True)):
        assert_close(f"loss of update {step}", *pair, "training losses", *row)
    for name, array in want.weights.items():
        assert_close(name, array, got.weights[name], "trained", *row)
    for name, array in want.moments.items():
        scale = max(np.abs(a).max() for n, a in want.moments.items() if n[0] == name[0])
        assert_close(name, array, got.moments[name], "trained", *row, floor=scale)
    assert set(snapshot(want.folder)) == set(snapshot(got.folder))
    for name in ("spec.json", "best", "last"):
        assert (want.folder / name).read_bytes() == (got.folder / name).read_bytes()
    for one, other in zip(metrics(want.folder), metrics(got.folder), strict=True):
        assert list(one) == list(other)
        for key in one:
            if isinstance(one[key], float):
                size = max(abs(one[key]), 1.0)
                assert_close(key, one[key], other[key], "training losses", *row, floor=size)
            else:
                assert one[key] == other[key], key


# --- members are what they would be alone -------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", backends.TRAINING_ORDER)
def test_a_hundred_updates_of_each_member_are_those_of_the_lone_run(
    name: str, data: Data, tmp_path: Path
) -> None:
    on, specs = engine(name, "float32"), fast_specs()
    found = together(on, specs, data, tmp_path / "all")
    for number, spec in enumerate(specs):
        want = alone(on, spec, data, tmp_path / f"alone-{number}")
        assert len(want.losses) == 100
        same_run(want, found[number], "float32")
    ends = [tuple(each.losses[-3:]) for each in found]
    assert len(set(ends)) == len(ends), "members that do not differ would hide a mix-up"


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "auto": (FAST, "auto"),
    "matrix": (FAST, "matrix"),
    "chunked": ({**FAST, "inner_steps": 2, "store": [0, 2, 3], "wipe": True}, "chunked"),
    "levels": ({**FAST, "store": [0, 3], "wipe": True, "integrate": [2, 3]}, "auto"),
    "preliminary": ({**FAST, "write": "preliminary", "norm": "slow"}, "auto"),
    "trained": ({**FAST, "trained": True}, "auto"),
    "lstm": ({"kind": "lstm", "size": 5}, "auto"),
    "gru": ({"kind": "gru", "size": 5, "norm": "layer"}, "auto"),
    "rnn": ({"kind": "rnn", "size": 5, "norm": "layer"}, "auto"),
    "alstm": ({"kind": "alstm", "size": 6}, "auto"),
    "convnet": ({"kind": "convnet", "size": 3, "steps": STEPS}, "auto"),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("variant", VARIANTS)
def test_in_float64_they_are_the_same_to_the_last_digits(
    variant: str, exact_engine: Engine, data: Data, tmp_path: Path
) -> None:
    core, memory = VARIANTS[variant]
    specs = []
    for seed, lr, decay, rate in (OWN[0], (7, 5e-3, 0.8, 0.02)):
        own = {"decay": decay, "rate": rate} if core["kind"] == "fast-weights" else {}
        specs.append(run_spec(seed, lr, {**core, **own}, "float64", 30))
    found = together(exact_engine, specs, data, tmp_path / "all", memory)
    for number, spec in enumerate(specs):
        want = alone(exact_engine, spec, data, tmp_path / f"alone-{number}", memory)
        same_run(want, found[number], "float64")


@pytest.mark.usefixtures("eager")
def test_runs_that_stopped_go_on_together(exact_engine: Engine, data: Data, tmp_path: Path) -> None:
    """Weights, moments and step counts come back to the members they belong to."""
    specs = fast_specs("float64", 30)
    want = together(exact_engine, specs, data, tmp_path / "whole")
    folders = folders_of(tmp_path / "half", specs)
    first = train_together(population(exact_engine, specs), specs, data, folders, stop_after=11)
    assert first == [None] * len(specs)
    outcomes = train_together(population(exact_engine, specs), specs, data, folders)
    for each, folder, spec, outcome in zip(want, folders, specs, outcomes, strict=True):
        weights, moments = state(folder.path, spec)
        for name, array in {**each.weights, **each.moments}.items():
            assert np.array_equal(array, {**weights, **moments}[name]), name
        assert isinstance(outcome, dict)
        assert isinstance(each.outcome, dict)
        assert outcome["test"] == each.outcome["test"]
        assert metrics(each.folder) == metrics(folder.path)


@pytest.mark.usefixtures("eager")
def test_what_is_measured_of_a_member_is_what_its_model_gives(exact_engine: Engine) -> None:
    specs, batch = fast_specs("float64"), split(5, 20)
    found = population(exact_engine, specs).evaluate(batch.inputs, batch.targets)
    for spec, (loss, wrong) in zip(specs, found, strict=True):
        made = exact_engine.compile(spec.model, weights_of(spec))
        want = made.evaluate(batch.inputs, batch.targets)
        assert_close("loss", want[0], loss, "loss", "float64", "oracle")
        assert wrong == want[1]


def some_updates(made: Any, data: Data, specs: Sequence[RunSpec]) -> list[Any]:
    """What four updates, their statistics and their results are; learning rates change."""
    made.begin_training([spec.train for spec in specs], data.train)
    stats = []
    for step in range(4):
        random = np.random.default_rng(step)
        mask = random.integers(0, 2, (len(specs), 16, 6)).astype(np.float32)
        lrs = np.linspace(1e-3, 4e-3, len(specs)) / (step + 1)
        rows = random.integers(0, 100, (len(specs), 16))
        stats.append(made.train_step(rows, lrs, Dropout(None, mask)))
    arrays = [{**each.parameters(), **each.optimizer_state()} for each in made.members]
    return [made.fetch(stats), arrays, made.evaluate(data.val.inputs, data.val.targets)]


def test_the_step_that_mlx_compiles_is_the_one_it_runs_eagerly(data: Data) -> None:
    """The smallest of the models: each kernel is a run of g++."""
    on, core = engine("mlx", "float64"), {"kind": "rnn", "size": 6}
    specs = [run_spec(seed, 1e-3, core, "float64", head_dropout=0.5) for seed in (0, 1)]
    import mlx.core as mx

    want = some_updates(population(on, specs), data, specs)
    mx.disable_compile()
    try:
        got = some_updates(population(on, specs), data, specs)
    finally:
        mx.enable_compile()
    row = ("trained", "float64", "population")
    assert_close("statistics", want[0], got[0], *row)
    assert_close("evaluated", want[2], got[2], *row)
    for one, other in zip(want[1], got[1], strict=True):
        for name, array in one.items():
            assert_close(name, array, other[name], *row)


class Rerun:
    """Runs a step where a CUDA graph would replay it; capture itself needs a GPU."""

    def warm_up(self, body: Any) -> None:
        body()

    def record(self, body: Any) -> Any:
        return body


def test_a_recorded_step_makes_the_same_updates(data: Data) -> None:
    """On CUDA the step is replayed; what the warm-up does to weights and moments is put back."""
    graph = pytest.importorskip("fwt.backends.torch.graph")

    class Recorded:
        def __init__(self, made: Any) -> None:
            self.made = made

        def __getattr__(self, name: str) -> Any:
            return getattr(self.made, name)

        def begin_training(self, *given: Any) -> None:
            self.made.begin_training(*given)
            self.made._graph = graph.StepGraph(self.made._adam, self.made._update, Rerun())

    specs, on = fast_specs(), engine("torch", "float32")
    found = [
        some_updates(made, data, specs)
        for made in (population(on, specs), Recorded(population(on, specs)))
    ]
    np.testing.assert_equal(found[0], found[1])


def test_what_a_graph_would_replay_never_moves(data: Data) -> None:
    specs = fast_specs()
    made: Any = population(engine("torch", "float32"), specs)

    def places() -> list[int]:
        adam = made._adam
        arrays = (adam.lrs, adam.m, adam.v, adam.steps, made._weights, *made._leaves.values())
        return [array.data_ptr() for array in arrays]

    made.begin_training([spec.train for spec in specs], data.train)
    before = places()
    made.train_step(np.zeros((4, 16), np.int64), np.ones(4), None)
    for member in made.members:
        member.load_parameters(member.parameters())
        member.load_optimizer_state(member.optimizer_state(), 3)
    assert places() == before


# --- one of them fails, or all are stopped ------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", backends.TRAINING_ORDER)
def test_a_member_that_diverges_leaves_the_others_as_they_are(
    name: str, data: Data, tmp_path: Path
) -> None:
    on = engine(name, "float32")
    specs = [run_spec(0, lr, FAST, steps=20) for lr in (1e-3, 1e30, 2e-3)]
    made, folders = population(on, specs), folders_of(tmp_path / "all", specs)
    outcomes = train_together(made, specs, data, folders)
    assert isinstance(outcomes[1], DivergedError)
    assert "expected finite numbers" in str(outcomes[1])
    assert str(folders[1].path) in str(outcomes[1])
    assert {path.name for path in folders[1].path.iterdir()} >= {"last", "spec.json"}
    assert folders[1].latest_step() == 0
    assert not (folders[1].path / "DONE").exists()
    for number in (0, 2):
        want = alone(on, specs[number], data, tmp_path / f"alone-{number}")
        weights, _ = state(folders[number].path, specs[number])
        for key, array in want.weights.items():
            assert_close(key, array, weights[key], "trained", "float32", "population")
        assert len(metrics(folders[number].path)) == len(metrics(want.folder))


def test_all_of_them_may_diverge(data: Data, tmp_path: Path) -> None:
    specs = [run_spec(seed, 1e30, FAST) for seed in (0, 1)]
    made, calls = population(engine("torch", "float32"), specs), []
    hooks = Hooks(stop_signal=lambda: calls.append(1))
    outcomes = train_together(made, specs, data, folders_of(tmp_path, specs), hooks)
    assert [type(each) for each in outcomes] == [DivergedError] * 2
    assert len(calls) <= 7, "nobody goes on when nobody is left"


def test_a_signal_saves_every_member(data: Data, tmp_path: Path) -> None:
    specs, asked = fast_specs(), iter([None] * 4 + [15])
    folders = folders_of(tmp_path, specs)
    hooks = Hooks(stop_signal=lambda: next(asked))
    with pytest.raises(Interrupted, match=r"signal 15 at step 5 of 100; saved 4 runs; .*resume"):
        train_together(population(engine("torch", "float32"), specs), specs, data, folders, hooks)
    assert [folder.latest_step() for folder in folders] == [5] * 4


def test_the_screen_gets_one_line_for_all(data: Data, tmp_path: Path) -> None:
    specs, told = fast_specs(steps=20), []
    made = population(engine("torch", "float32"), specs)
    folders = folders_of(tmp_path, specs)
    train_together(made, specs, data, folders, Hooks(on_metrics=told.append))
    files = [(folder.path / "metrics.jsonl").read_text().splitlines() for folder in folders]
    own = [list(map(json.loads, each)) for each in files]
    assert len(told) == len(own[0])
    for line, *each in zip(told, *own, strict=True):
        assert line["loss"] == pytest.approx(np.mean([e["loss"] for e in each]))
        if line["split"] == "train":
            assert line["examples_per_s"] == sum(e["examples_per_s"] for e in each)


# --- what cannot be a population ----------------------------------------------------------


def test_models_of_two_shapes_are_refused() -> None:
    specs = [run_spec(0, 1e-3, {**FAST, "size": size}) for size in (5, 6)]
    with pytest.raises(ConfigError, match="differ in decay and rate alone, got member 1"):
        population(engine("torch", "float32"), specs)


def test_only_what_differs_is_carried_along() -> None:
    models = [spec.model for spec in fast_specs()]
    assert list(own_rates(models, "float32")) == ["core.decay", "core.rate"]
    assert own_rates(models, "float32")["core.decay"].tolist() == [decay for _, _, decay, _ in OWN]
    assert list(own_rates([models[0], models[1]], "float32")) == ["core.decay"]
    assert own_rates([models[0], models[0]], "float32") == {}
    trained = [run_spec(0, 1e-3, {**FAST, "trained": True, "rate": r}).model for r in (0.1, 0.2)]
    assert own_rates(trained, "float32") == {}


def test_members_own_rates_are_not_rounded_to_bfloat16(training_backend: Any) -> None:
    specs = fast_specs("bfloat16")
    with pytest.raises(ConfigError, match=r"in bfloat16, which rounds them, got several of core\."):
        population(Engine(training_backend, "bfloat16"), specs)
    made = population(Engine(training_backend, "bfloat16"), [specs[0], specs[0]])
    found = made.evaluate(*vars(split(1, 9)).values())
    lone = training_backend.compile(specs[0].model, weights_of(specs[0]), dtype="bfloat16")
    assert found[0] == pytest.approx(lone.evaluate(*vars(split(1, 9)).values()), rel=0.02)


def test_numpy_refuses_as_it_refuses_training() -> None:
    spec = run_spec(0, 1e-3, FAST, "float64")
    with pytest.raises(BackendError, match="backend numpy: it has no training"):
        compile_population(backends.load("numpy"), [spec.model], [weights_of(spec)])


def test_mlx_refuses_a_fused_population() -> None:
    spec = run_spec(0, 1e-3, FAST)
    with pytest.raises(ConfigError, match=r"got memory='fused': a population .*--memory auto"):
        population(engine("mlx", "float32"), [spec], "fused")


def test_a_population_says_what_it_is(training_backend: Any) -> None:
    specs = fast_specs()
    made = population(Engine(training_backend, "float32"), specs)
    found = made.describe(16, STEPS)
    lone: Compiled = training_backend.compile(specs[0].model)
    assert found.keys() == lone.describe(16, STEPS).keys() | {"members"}
    assert (found["members"], found["backend"]) == (4, training_backend.name)
    fused = {"torch": "fused", "mlx": "attention"}  # MLX cannot map its fused core
    assert found["memory"] == fused[training_backend.name]
    assert (found["kernel"] == "none") == (found["memory"] != "fused")
