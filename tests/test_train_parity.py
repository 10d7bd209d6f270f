"""Training: torch and MLX alike, a stopped run like an unstopped one, one backend after the other.

The model has the sizes of the real recipe, the task fewer strings; dropout, weight decay, clipping
and a cosine are switched on so that all of a run's state must survive a stop. A small rate makes
the runs sensitive: ReLU units sit near their kinks, and a gap of 1e-5 in an update grew to 3e-2.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.backends.contract import Backend
from fwt.fwcore import model
from fwt.fwcore.layers import encoder_outputs
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import initialise
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import BatchOrder, Data, dropout
from fwt.fwcore.training.loop import train
from fwt.fwcore.training.schedule import learning_rate
from fwt.tasks.base import SPLITS
from tests.cases import Engine
from tests.conftest import engine, need
from tests.equal_runs import metrics
from tests.tolerances import assert_close

PAIR = ("torch", "mlx")
HALF, WHOLE = 50, 100


FAST: dict[str, Any] = {"kind": "fast-weights", "size": 20, "decay": 0.95, "rate": 0.02}
# cell -> its options and what the encoder gives it: 49 numbers are a picture
OTHERS: dict[str, tuple[dict[str, Any], int]] = {
    "alstm": ({"kind": "alstm", "size": 20}, 100),
    "convnet": ({"kind": "convnet", "size": 6}, 49),
}


def run_spec(
    seed: int = 0, dtype: str = "float32", core: dict[str, Any] = FAST, inputs: int = 100
) -> RunSpec:
    return RunSpec.parse(
        {
            "task": {"kind": "retrieval", "train": 4000, "val": 1000, "test": 1000},
            "model": {
                "encoder": {"kind": "embedding", "symbols": 37, "size": inputs},
                "core": core,
                "head": {"classes": 10},
            },
            "train": {
                "batch_size": 128,
                "lr": 2e-3,
                "schedule": "cosine",
                "clip": 1.0,
                "weight_decay": 0.01,
                "dropout": 0.1,
                "head_dropout": 0.1,
                "steps": WHOLE,
                "seed": seed,
                "dtype": dtype,
            },
            # neither a line of metrics nor a validation falls on the stop
            "report": {"log_every": 7, "eval_every": 40, "save_every": 60, "keep": 9},
        },
        "test",
    )


@pytest.fixture(name="data", scope="module")
def _data() -> Data:
    task = tasks.load(tasks.parse(run_spec().task))
    return Data(*(task.split(name) for name in SPLITS))


@dataclass
class Listening:
    """A model that keeps the loss of every update that the loop fetches."""

    made: Any
    losses: list[float] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def fetch(self, stats: Sequence[Any]) -> NumpyArray:
        rows: NumpyArray = self.made.fetch(stats)
        self.losses += rows[:, 0].tolist()
        return rows


def go(
    path: Path, backend: Backend, data: Data, stop_after: int | None = None, seed: int = 0
) -> list[float]:
    """Start or go on with a run; gives the loss of each update of this call."""
    spec = run_spec(seed)
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, spec)
    first = initialise(model.parameters(spec.model), spec.train.seed)
    made = Listening(backend.compile(spec.model, first))
    with folder:
        result = train(made, spec, data, folder, stop_after=stop_after)
    assert (result is None) == (stop_after is not None)
    return made.losses


@dataclass(frozen=True)
class Runs:
    """A run that was not stopped, and one that was stopped half way, of each backend."""

    root: Path
    losses: dict[str, list[float]]

    def whole(self, name: str) -> Path:
        return self.root / f"{name}-whole"

    def half(self, name: str) -> Path:
        return self.root / f"{name}-half"


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"), {})
    for name in backends.TRAINING_ORDER:
        backend = need(name)
        runs.losses[name] = go(runs.whole(name), backend, data)
        go(runs.half(name), backend, data, HALF)
    return runs


def tensors(path: Path, step: int, file: str) -> dict[str, NumpyArray]:
    return checkpoint.read_tensors(path / "checkpoints" / f"step-{step:08d}" / file)[0]


def validation(path: Path) -> dict[str, Any]:
    return [line for line in metrics(path) if line["split"] == "val"][-1]


# --- two backends -------------------------------------------------------------------------


def test_the_first_hundred_losses_agree(runs: Runs) -> None:
    for name, losses in runs.losses.items():
        assert len(losses) == WHOLE
        assert np.mean(losses[:5]) > 2.2, f"{name} begins at the loss of guessing, ln 10"
        assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.02, f"{name} learns"
    want, got = runs.losses["torch"], runs.losses["mlx"]
    for step in range(WHOLE):  # each of them relative to itself
        label = f"loss of update {step}"
        assert_close(label, want[step], got[step], "training losses", "float32", "torch-mlx")


def test_two_backends_end_with_the_same_weights(runs: Runs) -> None:
    same_end(runs.whole("torch"), runs.whole("mlx"))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", [1, 2])
def test_in_float64_the_backends_train_alike_to_the_last_digits(seed: int, data: Data) -> None:
    """What float32 leaves to rounding must be rounding: the same algorithm, to 1e-12."""
    trains_alike(run_spec(seed, "float64"), data)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_cells_train_alike_as_well(kind: str, data: Data) -> None:
    trains_alike(run_spec(0, "float64", *OTHERS[kind]), data, 8)


def trains_alike(spec: RunSpec, data: Data, count: int = 30) -> None:
    found = {name: some_updates(engine(name, "float64"), data, spec, count) for name in PAIR}
    (want, weights), (got, others) = found["torch"], found["mlx"]
    assert want[-1] != want[0]
    assert_close("losses", want, got, "training losses", "float64", "torch-mlx")
    for name, array in weights.items():
        assert_close(name, array, others[name], "trained", "float64", "torch-mlx")


def some_updates(
    on: Engine, data: Data, spec: RunSpec, count: int
) -> tuple[NumpyArray, dict[str, NumpyArray]]:
    """The losses and the weights of the first updates."""
    seed, sizes = spec.train.seed, (encoder_outputs(spec.model.encoder), spec.model.core.size)
    order = BatchOrder(seed, len(data.train), spec.train.batch_size)
    made = on.compile(spec.model, initialise(model.parameters(spec.model), seed, np.float64))
    made.begin_training(spec.train, data.train)
    stats = []
    for step in range(count):
        rows = order.rows(step)
        masks = dropout(seed, step, (0.1, 0.1), len(rows), sizes)
        rate = learning_rate(spec.train, step, WHOLE)
        stats.append(made.train_step(rows, rate, masks))
    return made.fetch(stats)[:, 0], made.parameters()


def same_end(want: Path, got: Path) -> None:
    pair = ("trained", "float32", "torch-mlx")
    for name, array in tensors(want, WHOLE, checkpoint.MODEL_FILE).items():
        assert_close(name, array, tensors(got, WHOLE, checkpoint.MODEL_FILE)[name], *pair)
    losses = [validation(path) for path in (want, got)]
    assert [line["step"] for line in losses] == [WHOLE, WHOLE]
    assert_close("validation loss", losses[0]["loss"], losses[1]["loss"], *pair)


@pytest.mark.parametrize(("first", "then"), list(permutations(backends.TRAINING_ORDER, 2)))
def test_half_on_one_and_half_on_the_other_ends_where_either_ends(
    first: str, then: str, runs: Runs, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(runs.half(first), path)
    losses = go(path, need(then), data)
    assert len(losses) == WHOLE - HALF
    for name in backends.TRAINING_ORDER:
        same_end(runs.whole(name), path)


# --- one backend --------------------------------------------------------------------------


@pytest.mark.parametrize("name", backends.TRAINING_ORDER)
def test_two_halves_are_the_whole_to_the_bit(
    name: str, runs: Runs, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(runs.half(name), path)
    assert RunFolder.open(path).latest_step() == HALF
    losses = go(path, need(name), data)
    assert losses == runs.losses[name][HALF:]
    for step in (60, WHOLE):
        for file in (checkpoint.MODEL_FILE, checkpoint.OPTIMIZER_FILE):
            want = tensors(runs.whole(name), step, file)
            got = tensors(path, step, file)
            assert {n: a.tobytes() for n, a in want.items()} == {
                n: a.tobytes() for n, a in got.items()
            }, f"{file} of step {step}"
    assert metrics(path) == metrics(runs.whole(name))
    assert len(metrics(path)) == 15 + 3 + 1  # training at 7..98 and 100; validation; test


@pytest.mark.parametrize("name", backends.TRAINING_ORDER)
def test_a_run_is_the_same_twice(name: str, runs: Runs) -> None:
    """The half is a run of its own up to its stop."""
    lines = [line for line in metrics(runs.whole(name)) if line["step"] <= HALF]
    assert metrics(runs.half(name)) == lines
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 35, 40, 42, 49]


def test_the_metrics_have_the_same_keys_on_every_backend(runs: Runs) -> None:
    keys = {
        name: [sorted(line) for line in metrics(runs.whole(name))]
        for name in backends.TRAINING_ORDER
    }
    assert len({json.dumps(lines) for lines in keys.values()}) == 1


# --- seeds --------------------------------------------------------------------------------


def test_seeds_0_and_1_are_two_runs(
    training_backend: Backend, runs: Runs, data: Data, tmp_path: Path
) -> None:
    table = model.parameters(run_spec().model)
    zero, one = initialise(table, 0), initialise(table, 1)
    drawn = [name for name in zero if np.unique(zero[name]).size > 2]
    assert len(drawn) >= 6
    for name in drawn:
        assert not np.array_equal(zero[name], one[name]), name
    rows = [BatchOrder(seed, 4000, 128).rows(0).tolist() for seed in (0, 1)]
    assert rows[0] != rows[1]
    losses = go(tmp_path / "run", training_backend, data, 2, seed=1)
    before = runs.losses[training_backend.name][:2]
    assert min(abs(a - b) for a, b in zip(losses, before, strict=True)) > 1e-4
