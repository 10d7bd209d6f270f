"""Numbers under stress: divergence, drift over long sequences, extreme settings, small types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.backends.contract import Backend
from fwt.fwcore.errors import BackendError, ConfigError, DivergedError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import NO_FLOAT16, RunSpec, TrainSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.checkpoint import Progress
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training import evaluation
from fwt.fwcore.training.batches import Data, Split
from fwt.fwcore.training.lockstep import Alone
from fwt.fwcore.training.loop import train_together
from tests import cases, oracle
from tests.cases import REAL_FORMS, Engine
from tests.cli_tools import ROOT, TINY, clean_environment, good, refused, snapshot
from tests.conftest import engine
from tests.population_cases import FAST, folders_of, population, run_spec, split, weights_of
from tests.small_run import SPEC, Model
from tests.tolerances import TOLERANCES, assert_close
from tools import drift

INPUTS = 4
EVERY = 7  # updates between two reports, see `run_spec`
UNSEEN = 8  # a symbol of which no example here has one

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


# --- divergence ---------------------------------------------------------------------------


def seen(part: Split) -> Split:
    """The same examples without the last symbol."""
    return Split(part.inputs % UNSEEN, part.targets)


@pytest.fixture(name="data", scope="module")
def _data() -> Data:
    return Data(*(seen(split(seed, count)) for seed, count in ((1, 64), (2, 20), (3, 21))))


class Poisoned:
    """Models of which one gets a weight that is no number after so many updates.

    Attributes:
        made: a population, or a model as `Alone`.
        steps: updates that were asked for.
    """

    def __init__(self, made: Any, after: int, weight: str, member: int = 0) -> None:
        self.made, self.after, self.weight, self.member = made, after, weight, member
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def poison(self) -> None:
        model = self.made.members[self.member]
        arrays = {name: array.copy() for name, array in model.parameters().items()}
        arrays[self.weight][-1] = np.nan  # of the embedding: the symbol that is not seen
        model.load_parameters(arrays)

    def train_step(self, *arguments: Any) -> Any:
        if self.after == 0 == self.steps:
            self.poison()
        self.steps += 1
        stats = self.made.train_step(*arguments)
        if self.steps == self.after:
            self.poison()
        return stats


@pytest.fixture(name="unguarded")
def _unguarded(monkeypatch: pytest.MonkeyPatch, both: dict[str, Engine]) -> None:
    """Models that take weights which are no numbers."""
    for name in both:
        for part in ("compiled", "population"):
            monkeypatch.setattr(
                f"fwt.backends.{name}.{part}.check_fit", lambda table, arrays, where: arrays
            )


def check_run(folder: RunFolder) -> list[dict[str, Any]]:
    """Every number that a run left is one: its metrics, and all of its checkpoints."""

    def no_constant(name: str) -> Any:
        raise AssertionError(f"metrics.jsonl holds {name}")

    path = folder.path / "metrics.jsonl"
    text = path.read_text().splitlines() if path.exists() else []
    points = list((folder.path / "checkpoints").iterdir())
    assert points
    for point in points:
        found = checkpoint.read(point)  # refuses what is not finite
        assert all(np.isfinite(array).all() for array in (found.moments or {}).values())
    return [json.loads(line, parse_constant=no_constant) for line in text]


def alone(on: Engine, spec: RunSpec) -> Any:
    return Alone(on.compile(spec.model, weights_of(spec)))


STEPS = 12  # updates; reports at 7 and 12

# weight, updates before it is poisoned -> updates made, what the error says
POISONS = {
    "first": ("head.output.bias", 0, EVERY, "loss=nan, grad_norm=nan at step 1;"),
    "between": ("head.output.bias", 3, EVERY, "loss=nan, grad_norm=nan at step 4;"),
    "last": ("head.output.bias", STEPS - 1, STEPS, f"loss=nan, grad_norm=nan at step {STEPS};"),
    "end": ("head.output.bias", STEPS, STEPS, f"in head.output.bias at step {STEPS};"),
    "unseen": ("encoder.weight", 3, EVERY, f"NaN or infinity in encoder.weight at step {EVERY};"),
    "unseen end": ("encoder.weight", STEPS, STEPS, f"in encoder.weight at step {STEPS};"),
}


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("poison", POISONS)
def test_a_weight_that_is_no_number_is_seen_by_the_next_report(
    poison: str, data: Data, tmp_path: Path, both: dict[str, Engine]
) -> None:
    """Also where every loss is finite, because no example meets the weight."""
    weight, after, made, words = POISONS[poison]
    for name, on in both.items():
        spec = run_spec(0, 1e-3, FAST, steps=STEPS)
        models = Poisoned(alone(on, spec), after, weight)
        (folder,) = folders_of(tmp_path / name, [spec])
        (error,) = train_together(models, [spec], data, [folder])
        assert isinstance(error, DivergedError), error
        assert words in str(error)
        assert models.steps == made
        assert [row["step"] for row in check_run(folder)] == [EVERY] * (after >= EVERY)
        assert folder.latest_step() == 0
        assert str(folder.latest()) in str(error)
        assert not (folder.path / "DONE").exists()


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("poison", ["first", "end", "unseen"])
def test_a_member_whose_weight_is_no_number_stops_alone(
    poison: str, data: Data, tmp_path: Path, both: dict[str, Engine]
) -> None:
    weight, after, _, words = POISONS[poison]
    for name, on in both.items():
        specs = [run_spec(seed, 1e-3, FAST, steps=STEPS) for seed in (0, 1, 2)]
        models = Poisoned(population(on, specs), after, weight, member=1)
        folders = folders_of(tmp_path / name, specs)
        outcomes = train_together(models, specs, data, folders)
        assert words in str(outcomes[1])
        assert [isinstance(each, dict) for each in outcomes] == [True, False, True]
        assert [(each.path / "DONE").exists() for each in folders] == [True, False, True]
        assert [each.latest_step() for each in folders] == [STEPS, 0, STEPS]
        for folder in folders:
            check_run(folder)


def test_a_test_split_that_overflows_ends_no_run_and_is_written_nowhere(
    data: Data, tmp_path: Path, both: dict[str, Engine]
) -> None:
    """A weight near the end of float32, finite, which only a test example meets."""
    inputs = data.test.inputs.copy()
    inputs[-1] = UNSEEN
    given = Data(data.train, data.val, Split(inputs, data.test.targets))
    for name, on in both.items():
        spec = run_spec(0, 1e-3, {"kind": "rnn", "size": 6, "activation": "relu"}, steps=STEPS)
        models = alone(on, spec)
        weights = weights_of(spec)
        weights["encoder.weight"][UNSEEN] = 3e38
        models.model.load_parameters(weights)
        (folder,) = folders_of(tmp_path / name, [spec])
        (error,) = train_together(models, [spec], given, [folder])
        assert isinstance(error, DivergedError)
        assert f"test loss=nan of the best step {STEPS}" in str(error)
        assert {row["split"] for row in check_run(folder)} == {"train", "val"}
        assert not (folder.path / "DONE").exists()
        with pytest.raises(DivergedError, match="expected a finite loss, got loss=nan"):
            evaluation.measure(models.model, given.test)


def test_weights_that_overflow_are_one_line_on_every_backend(
    tmp_path: Path, backend: Backend
) -> None:
    """NumPy warns of each product that is no number; what is said is that the loss is none."""
    run = tmp_path / "run"
    lasts = ("--model", "irnn", "--stop-after", "1", "--backend", "torch", "--quiet")
    good("train", *TINY, *lasts, "--out", run)
    (point,) = (run / "checkpoints").glob("*1")
    found = checkpoint.read(point)
    assert found.moments is not None
    # a float64 forward pass overflows too
    weights = {name: 1e38 * np.ones_like(array) for name, array in found.params.items()}
    checkpoint.remove(point)
    checkpoint.write(point, found.spec, weights, found.moments, found.progress)
    words = ["evaluate: expected a finite loss", "an earlier step"]
    refused(5, words, "eval", point, "--backend", backend.name)


@pytest.mark.parametrize("name", ["m.core.w", "v.core.w"])
def test_a_moment_that_is_no_number_is_never_saved(name: str, tmp_path: Path) -> None:
    """Else the last checkpoint would be one that cannot be read."""
    folder, model = RunFolder.create(tmp_path / "run", SPEC), Model(0)
    folder.save(model, SPEC, Progress(step=0))
    model.moments[name][0, 0] = np.inf
    before = snapshot(folder.path)
    with pytest.raises(DivergedError, match=rf"in {name} at step 1; .* is .*step-00000000"):
        folder.save(model, SPEC, Progress(step=1))
    assert snapshot(folder.path) == before


@pytest.mark.parametrize(
    "cause",
    [
        ("--norm", "slow", "--inner-steps", "3", "--lr", "1e3"),
        ("--model", "irnn", "--lr", "1e8"),
    ],
    ids=["slow", "irnn"],
)
def test_real_divergence_is_named_and_leaves_a_checkpoint_that_loads(
    cause: tuple[str, ...], tmp_path: Path, training_backend: Backend
) -> None:
    steps = ("--steps", "9", "--log-every", "3")
    run, place = tmp_path / "run", ("--backend", training_backend.name)
    words = ["expected finite numbers", " at step ", "step-00000000", "--lr"]
    told = refused(5, words, "train", *TINY, *cause, *steps, *place, "--out", run).errors[0]
    step = int(told.split(" at step ")[1].split(";")[0])
    rows = check_run(RunFolder(run))
    assert [row["step"] for row in rows] == list(range(3, step - step % 3 + 1, 3))[: len(rows)]
    assert step - (rows[-1]["step"] if rows else 0) <= 3
    assert good("eval", run, "--backend", "numpy", "--json").json["step"] == 0


# --- drift --------------------------------------------------------------------------------


@pytest.fixture(name="drifts", scope="module")
def _drifts() -> Any:
    return json.loads((ROOT / "results" / "drift.json").read_text())


def test_the_drift_that_was_measured_is_within_its_bounds(drifts: Any) -> None:
    for row in drifts["rows"]:
        for quantity in ("outputs", "states", "gradients"):
            bound = TOLERANCES[quantity, "float32", "drift"].rtol
            assert 0 < row[quantity] <= bound, (quantity, row)
    assert max(row["outputs"] for row in drifts["rows"]) > 1e-6, "too good to be float32"


def test_every_cell_form_and_backend_was_measured(drifts: Any) -> None:
    found = {(row["model"], row["backend"], row["form"]) for row in drifts["rows"]}
    wanted = set()
    for one in drift.subjects():
        forms = drift.FORMS if one.spec.core.memory_reads else ("auto",)
        wanted |= {(one.name, on, form) for on in backends.TRAINING_ORDER for form in forms}
    assert found == wanted
    for row in drifts["rows"]:
        assert row["steps"] == (drift.ATTENTION if row["form"] == "attention" else drift.LONG)


def test_the_guide_has_the_table_of_that_file(drifts: Any) -> None:
    assert drift.table(drifts) in (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.parametrize("form", ["matrix", "fused"])
def test_four_thousand_steps_drift_no_more(form: str, both: dict[str, Engine]) -> None:
    subject = next(drift.subjects())
    for name in both:
        steps = drift.LONG if name == "torch" else 256
        outputs, states = drift.outputs_and_states(subject, name, form, steps)
        assert 0 < outputs <= TOLERANCES["outputs", "float32", "drift"].rtol
        assert 0 < states <= TOLERANCES["states", "float32", "drift"].rtol


# --- extremes -----------------------------------------------------------------------------

ROOM = np.float32(1) - np.finfo(np.float32).epsneg  # the largest float32 below 1

EXTREMES: dict[str, dict[str, Any]] = {
    "decay 1": {"decay": 1.0},
    "decay nearly 1": {"decay": float(ROOM)},
    "decay tiny": {"decay": 1e-30},
    "rate tiny": {"rate": 1e-30},
    "rate large": {"rate": 1e4},
    "S 0": {"inner_steps": 0, "rate": 1e4},
    "S 20": {"inner_steps": 20, "rate": 0.02},
    "one unit": {"size": 1},
    "one unit, no norm": {"size": 1, "norm": "none", "rate": 0.05},
}
CORES = {
    **{name: {"kind": "fast-weights", "size": 5, **core} for name, core in EXTREMES.items()},
    **{
        f"one unit, {name}": {**core, "size": 2 if core["kind"] == "alstm" else 1}
        for name, core in cases.PLAIN.items()
        if core["kind"] != "convnet"
    },
}
FEW = ((1, 1), (1, 13), (2, 13))  # (B, T)


@pytest.mark.parametrize("name", CORES)
def test_extreme_settings_are_those_of_the_oracle(name: str, engine: Engine) -> None:
    spec = cases.core_only(CORES[name], INPUTS)
    params = cases.params_of(spec)
    fused = engine.name != "numpy" and name in EXTREMES
    for form in (*cases.forms_of(spec.core), *(["fused"] if fused else [])):
        made = engine.compile(spec, params, form)
        for batch, steps in FEW:
            x = cases.noise(1, batch, steps, INPUTS)
            want, states = cases.oracle_core(spec.core)(params, x)
            got, final = made.states(x)
            label = f"{form} B={batch} T={steps}"
            assert_close(label, want, got, "outputs", engine.dtype, "oracle", 1e-30)
            for key, array in final.items():
                assert_close(f"{label} {key}", states[key], array, "states", engine.dtype, "oracle")


@pytest.mark.parametrize("name", EXTREMES)
def test_gradients_of_extreme_settings_are_those_of_central_differences(
    name: str, exact_engine: Engine
) -> None:
    spec = cases.core_only({**CORES[name], "size": min(CORES[name]["size"], 3)}, 2)
    params, x = cases.params_of(spec), cases.noise(5, 1, 4, 2)

    def loss(weights: dict[str, NumpyArray]) -> float:
        core = cases.oracle_core(spec.core)
        scores = oracle.network(weights, x, encoder="none", core=core, head="plain")
        return oracle.cross_entropy(scores, np.array([1]))

    want = {key: differences(loss, params, key) for key in params}
    scale = max(float(np.abs(array).max()) for array in want.values())
    for form in (*REAL_FORMS, "fused"):
        got = exact_engine.compile(spec, params, form).gradients(x, np.array([1]))[1]
        for key, array in want.items():
            label = f"{form} {key}"
            assert_close(label, array, got[key], "gradients", "float64", "oracle", scale)


def differences(
    loss: Callable[[Any], float], params: dict[str, NumpyArray], key: str
) -> NumpyArray:
    found = np.zeros_like(params[key])
    for at in np.ndindex(found.shape):
        sides = []
        for step in (1e-6, -1e-6):
            array = params[key].copy()
            array[at] += step
            sides.append(loss({**params, key: array}))
        found[at] = (sides[0] - sides[1]) / 2e-6
    return found


LOGITS = (-200.0, -100.0, 0.0, 50.0, 200.0)


@pytest.mark.parametrize("logit", LOGITS)
def test_a_trained_decay_at_the_ends_of_its_range_is_one_memory_in_every_form(
    logit: float, engine: Engine
) -> None:
    """In float32 the sigmoid of -100 is 0 to every arithmetic that has no denormal numbers."""
    core = {"kind": "fast-weights", "size": 5, "rate": 0.3, "trained": True}
    spec = cases.core_only(core, INPUTS)
    params = cases.params_of(spec) | {"core.decay_logit": np.array(logit)}
    x, targets = cases.noise(1, 2, 40, INPUTS), np.array([0, 1])  # with borders in every form
    want, states = cases.oracle_core(spec.core)(params, x)
    trains = engine.name in backends.TRAINING_ORDER
    slopes: dict[str, NumpyArray] = {}
    for form in (*REAL_FORMS, *(["fused"] if trains else [])):
        made = engine.compile(spec, params, form)
        got, final = made.states(x)
        assert_close(form, want, got, "outputs", engine.dtype, "oracle")
        for key, array in final.items():
            assert_close(f"{form} {key}", states[key], array, "states", engine.dtype, "oracle")
        found = made.gradients(x, targets)[1] if trains else {}
        slopes = slopes or found  # of the matrix: eq. 1 as it is written
        scale = max((float(np.abs(array).max()) for array in slopes.values()), default=0.0)
        for key, array in found.items():
            assert_close(
                f"{form} {key}", slopes[key], array, "gradients", engine.dtype, "self", scale
            )
    assert not trains or (abs(float(slopes["core.decay_logit"])) > 1e-3) == (logit == 0)


# --- few examples, and none ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_the_last_slice_of_an_evaluation_may_be_one_example(
    count: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of 4: fewer than one, one, one and a rest of 1, two and a rest of 1."""
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 4)
    spec = cases.core_only({"kind": "fast-weights", "size": 3}, INPUTS)
    params, x = cases.params_of(spec), cases.noise(6, count, 3, INPUTS)
    targets = np.arange(count) % 2
    core = cases.oracle_core(spec.core)
    scores = oracle.network(params, x, encoder="none", core=core, head="plain")
    found = evaluation.measure(engine.compile(spec, params), Split(x, targets))
    want = oracle.cross_entropy(scores, targets)
    assert_close("loss", want, found["loss"], "loss", engine.dtype, "oracle")
    wrong = int((scores.argmax(1) != targets).sum())
    assert found["error_pct"] == pytest.approx(100 * wrong / count)
    assert found["examples"] == count


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["fast-weights", "rnn", "lstm", "gru", "alstm", "convnet"])
def test_no_example_and_no_time_step_are_refused_everywhere(
    kind: str, shape: tuple[int, int], backend: Backend
) -> None:
    core = {"kind": kind, "size": 4, **({"steps": 3} if kind == "convnet" else {})}
    inputs = 49 if kind == "convnet" else INPUTS
    spec = cases.core_only(core, inputs)
    x, targets = np.zeros((*shape, inputs), np.float32), np.zeros(shape[0], np.int64)
    words = rf"expected at least one sequence .* batch={shape[0]}, steps={shape[1]};"
    trains = backend.name != "numpy"
    for form in cases.forms_of(spec.core) if kind != "fast-weights" else (*REAL_FORMS, "auto"):
        made = backend.compile(spec, memory=form)
        calls: list[Callable[[], Any]] = [
            lambda made=made: made.forward(x),
            lambda made=made: made.states(x),
            lambda made=made: made.evaluate(x, targets),
            lambda made=made: made.trace(x),
            *([lambda made=made: made.gradients(x, targets)] if trains else []),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match=words):
                call()
        with pytest.raises(ConfigError, match="batch=0, steps=1"):
            made.stream(0)
        assert np.isfinite(made.forward(np.ones((1, 3, inputs), np.float32))).all()
    with pytest.raises(ConfigError, match="at least one example, got examples=0"):
        evaluation.measure(made, Split(x[:0], targets[:0]))


# --- small number types -------------------------------------------------------------------


def test_float16_is_refused_with_why_and_what_to_take(tmp_path: Path, backend: Backend) -> None:
    why = ["float16 is not offered", "loss scaling", "bfloat16, or float32"]
    place = ("--backend", backend.name, "--out", tmp_path / "run")
    refused(2, [*why, "train.dtype='float16'"], "train", *TINY, "--dtype", "float16", *place)
    assert list(tmp_path.iterdir()) == []
    spec = cases.core_only({"kind": "lstm", "size": 2}, INPUTS)
    with pytest.raises(BackendError) as caught:
        backend.compile(spec, dtype="float16")
    assert "dtype='float16'" in str(caught.value)
    assert ("float64 only" if backend.name == "numpy" else NO_FLOAT16) in str(caught.value)


def test_most_gradients_of_a_long_sequence_would_be_0_in_float16(drifts: Any) -> None:
    """The reason that is given for it, as it was measured."""
    assert max(drifts["zero_in_float16"].values()) > 0.5


SMALL = {name: cases.VARIANTS[name] for name in cases.SOME if "preliminary-identity" not in name}


@pytest.mark.parametrize("variant", SMALL)
def test_bfloat16_computes_what_float32_does(variant: str, both: dict[str, Engine]) -> None:
    inputs = cases.inputs_of(variant, INPUTS)
    spec = cases.core_only(cases.core_of(variant, 8), inputs)
    params, x = cases.params_of(spec, spread=0.1), cases.noise(7, 2, 11, inputs)
    for name in both:
        want = engine(name, "float32").compile(spec, params).states(x)
        for form in cases.forms_of(spec.core):
            got = engine(name, "bfloat16").compile(spec, params, form).states(x)
            gap = assert_close(f"{name} {form}", want[0], got[0], "outputs", "bfloat16", "float32")
            assert gap > 1e-4, "that was no bfloat16"
            for key, array in got[1].items():
                label = f"{name} {form} {key}"
                assert_close(label, want[1][key], array, "states", "bfloat16", "float32")


TRAINED = {
    "fast-weights": FAST,
    "lstm": {"kind": "lstm", "size": 6},
    "gru": {"kind": "gru", "size": 6},
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_short_training_in_bfloat16_follows_float32(name: str, both: dict[str, Engine]) -> None:
    given = split(1, 64)
    for on in both:
        losses = {}
        for dtype in ("float32", "bfloat16"):
            spec = run_spec(0, 1e-2, TRAINED[name], dtype)
            model = engine(on, dtype).compile(spec.model, weights_of(spec))
            model.begin_training(TrainSpec(steps=30, dtype=dtype), given)
            rows = [np.arange(64).reshape(4, 16)[step % 4] for step in range(30)]
            losses[dtype] = model.fetch([model.train_step(row, 1e-2, None) for row in rows])[:, 0]
            assert {array.dtype for array in model.parameters().values()} == {np.dtype("float32")}
        first, last = losses["float32"][:4].mean(), losses["float32"][-4:].mean()
        assert last < 0.9 * first, "nothing was learned, so nothing is compared"
        row = ("training losses", "bfloat16", "float32")
        assert assert_close(f"{on}", losses["float32"], losses["bfloat16"], *row) > 1e-5
