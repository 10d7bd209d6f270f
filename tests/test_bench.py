"""`fwt bench`: its formulas, order, check and what it tells; never how long anything took."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.bench import check, child, roofline, subjects, suite, timing
from fwt.bench.shapes import GRID, Shape, batch_of, parse, spec_of, weights_of
from fwt.bench.subjects import OURS, SUBJECTS, kind_of
from fwt.fwcore import limits
from fwt.fwcore.errors import CheckFailed, ConfigError
from tests.bench_cases import CEILINGS, NUMBERS, QUICK, TINY, TRAINING, options, quiet, side_of
from tests.cli_tools import clean_environment, fwt, good
from tests.conftest import need
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


# --- formulas -----------------------------------------------------------------------------


def test_operations_and_bytes_of_fast_weights_counted_by_hand():
    """B = 2, T = 3, I = R = 4, S = 1, N = 10; a product of R by R with a vector is 32 operations.

    Forward, a sequence: C x 3 x 32, W h 2 x 32; 3 pairs of steps in attention form 3 x (8 + 8)
    (the matrix form would take 2 x 5 x 16); 3 x 10 x 4 pointwise; head 80: in all 408.
    Backward: C 96, W 64, h 64; pairs 96; pointwise 240; head 160: in all 720.
    Parameters: 16 + 16 + 4 + 4 + 40 + 10 = 90, Adam 12 each.
    """
    assert roofline.memory_operations(TINY) == (48, 96)
    assert roofline.forward("fast-weights", TINY) == (2 * 408, 4 * (2 * (3 * 4 + 10) + 90))
    operations, moved = roofline.train("fast-weights", TINY)
    assert operations == 2 * 408 + 2 * 720 + 12 * 90
    # x twice 2 x 24; h, the normalised bracket and dz, each written and read 6 x 24
    assert moved == 4 * (2 * 24 + 6 * 24 + 10 * 90)
    # 64 for W and C, 40 pointwise, A h and its update 32 + 48; weights 40, A twice, x and h
    assert roofline.stream("fast-weights", TINY) == (184, 4 * (40 + 32 + 8))


def test_operations_of_an_lstm_counted_by_hand():
    # forward 5 products of 4 x 32, 3 x 30 x 4 pointwise, head 80; backward 7, twice, 160
    assert roofline.forward("lstm", TINY).operations == 2 * (5 * 128 + 360 + 80)
    weights = 64 + 64 + 16 + 50
    found = roofline.train("lstm", TINY).operations
    assert found == 2 * (5 * 128 + 360 + 80) + 2 * (7 * 128 + 720 + 160) + 12 * weights
    assert roofline.forward("gru", TINY).operations == 2 * (5 * 96 + 300 + 80)


def test_the_cheaper_form_of_the_memory_is_counted():
    long = Shape(1, 1000, 4, 1)
    assert roofline.memory_operations(long) == (999 * 5 * 16, 999 * 9 * 16)
    assert roofline.memory_operations(TINY._replace(inner=3)) == (3 * 48, 3 * 96)
    assert roofline.memory_operations(TINY._replace(inner=0)) == (0, 0)


def test_the_floor_is_the_slower_of_computing_and_moving():
    ceilings = roofline.Ceilings(operations=1e6, bandwidth=1e3)
    assert roofline.floor_of(roofline.Work(2e6, 1e3), ceilings) == (2000.0, "operations")
    assert roofline.floor_of(roofline.Work(1e6, 3e3), ceilings) == (3000.0, "bytes")


# --- times --------------------------------------------------------------------------------


def test_subjects_take_turns():
    assert list(timing.schedule({"a": 2, "b": 2, "c": 2})) == list("abcabc")
    assert list(timing.schedule({"a": 4, "b": 2})) == list("aabaab")
    order = list(timing.schedule({"a": 50, "slow": 5, "b": 13}))
    assert {name: order.count(name) for name in "ab"} == {"a": 50, "b": 13}
    places = np.flatnonzero(np.array(order) == "slow")
    assert len(places) == 5
    assert np.ptp(np.diff(places)) <= 2
    assert list(timing.schedule({})) == []


def test_calls_are_made_in_turns_and_counted_to_their_own_subject(monkeypatch):
    made: list[str] = []
    monkeypatch.setattr(timing, "timed", lambda call: call() or float(len(made)))
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    found = timing.measure(calls, {"a": 4, "b": 2})
    assert made == list("aabaab")
    assert found == {"a": [1, 2, 4, 5], "b": [3, 6]}
    made.clear()
    assert timing.measure(calls, {"a": 2, "b": 1}, short={"b"}) == {"a": [1, 2], "b": [4]}
    assert made == list("aabb")


def test_median_and_quartiles_of_given_numbers():
    found = timing.summary([0.010, 0.002, 0.004, 0.001, 0.003])
    want = {"median_ms": 3, "q25_ms": 2, "q75_ms": 4, "iqr_ms": 2, "n": 5}
    assert found == pytest.approx(want)
    assert timing.summary([0.2, 0.4], per_sample=20)["median_ms"] == pytest.approx(15)


def test_rounds_follow_the_budget_but_are_five_at_least():
    assert timing.rounds_for(0.1, 2.0, 50) == 20
    assert timing.rounds_for(0.1, 100.0, 50) == 50
    assert timing.rounds_for(9.0, 2.0, 50) == 5


def test_warming_stops_when_the_budget_is_spent(monkeypatch):
    spent = iter([0.5, 0.2, 0.3, 9.0])
    monkeypatch.setattr(timing, "timed", lambda call: next(spent))
    assert timing.warmed(lambda: None, 100.0) == (0.5, 0.3)
    assert timing.warmed(lambda: None, 1.0) == (9.0, 9.0)


# --- subjects -----------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [0, 1, 3])
@pytest.mark.parametrize("name", ["naive", "lstm", "gru"])
@pytest.mark.parametrize("training", TRAINING)
def test_what_we_are_compared_with_computes_our_equations(training, name, inner, eager):
    """Class scores against the NumPy backend, and 30 streamed steps against its states."""
    side, shape = side_of(training), Shape(3, 7, 5, inner)
    spec, data = spec_of(kind_of(name), shape), batch_of(shape)
    params = weights_of(spec)
    reference = backends.load("numpy").compile(spec, params)
    subject = side.subject(name, spec, params, data)
    got = side.numpy(subject.forward())
    assert_close(name, reference.forward(data.inputs), got, "logits", "float32", "oracle")
    streamer = side.streamer(name, spec, params)
    steps = [side.native(data.inputs[:1, t]) for t in range(shape.steps)]
    outputs = np.stack([side.numpy(streamer.step(x)) for x in steps], 1)
    want = reference.states(data.inputs[:1])[0]
    assert_close(name, want, outputs, "outputs", "float32", "oracle")


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("training", TRAINING)
def test_every_subject_passes_the_check(training, name, eager):
    gaps = check.check(side_of(training), name, Shape(3, 7, 5, 2))
    wanted = ["outputs", "loss of the step"]
    wanted += [] if name in subjects.OWN else ["gradients"]
    wanted += ["gradient norm of the step"] if name in OURS else []
    assert sorted(gaps) == sorted(wanted)
    assert check.check_stream(side_of(training), name, Shape(1, 1, 5, 2)).keys() == {"outputs"}


@pytest.mark.parametrize("training", TRAINING)
def test_the_step_of_every_rival_is_adam(training, eager, monkeypatch):
    """The first update of Adam moves every weight that has a gradient by the learning rate."""
    module_of = {"torch": "fwt.bench.torch_side", "mlx": "fwt.bench.mlx_side"}[training]
    need(training)
    from fwt.bench.shapes import TRAIN

    monkeypatch.setattr(f"{module_of}.TRAIN", TRAIN.model_copy(update={"lr": 0.01}))
    side, data = side_of(training), batch_of(TINY)
    for name in ("lstm", "naive"):
        spec = spec_of(kind_of(name), TINY)
        subject = side.subject(name, spec, weights_of(spec), data)
        before = subject.statistics(subject.train())[0]
        after = [subject.statistics(subject.train())[0] for _ in range(20)][-1]
        assert after < 0.9 * before


def test_on_a_gpu_the_rivals_step_is_a_graph_too():
    """Their step through the graph of ours, recorded by a stand-in that runs it instead."""
    side, data, spec = side_of("torch"), batch_of(TINY), spec_of("lstm", TINY)
    eager = side.subject("lstm", spec, weights_of(spec), data)
    want = [eager.statistics(eager.train())[0] for _ in range(3)]

    class Rerun:
        warmed = 0

        def warm_up(self, body: Any) -> None:
            self.warmed += 1
            body()

        def record(self, body: Any) -> Any:
            return body

    side._recorder = Rerun()
    graphed = side.subject("lstm", spec, weights_of(spec), data)
    assert [graphed.statistics(graphed.train())[0] for _ in range(3)] == pytest.approx(want)
    assert side._recorder.warmed == 1
    assert graphed.facts["step"] == "one CUDA graph, fused AdamW"
    assert side.subject("naive", *naive_arguments(data)).facts["step"] == "eager, fused AdamW"


def naive_arguments(data: Any) -> tuple[Any, ...]:
    spec = spec_of("fast-weights", TINY)
    return spec, weights_of(spec), data


# --- shapes -------------------------------------------------------------------------------


def test_shapes_are_read_and_written():
    assert parse("128,11,50,0") == (128, 11, 50, 0)
    assert str(GRID[0]) == "128,11,20,1"
    assert len(set(GRID)) == 9


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "0,1,1,1", "1,1,-1,1", "a,1,1,1"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ConfigError, match=r"B,T,R,S"):
        parse(text)


@pytest.mark.parametrize("shape", [*GRID, Shape(32, 4000, 64, 1), Shape(1, 1, 1, 0)])
def test_the_check_runs_at_the_shape_itself_or_at_a_smaller_one(shape):
    part = check.checked_shape(shape)
    assert (part.size, part.inner) == (shape.size, shape.inner)
    assert 1 <= part.batch <= shape.batch
    assert 1 <= part.steps <= shape.steps
    assert 24 * part.batch * part.steps * part.size**2 <= check.REFERENCE_BYTES
    if part.batch > 2:
        assert part.steps == shape.steps
    small = 24 * shape.batch * shape.steps * shape.size**2 <= check.REFERENCE_BYTES
    assert (part == shape) == small


# --- the check refuses --------------------------------------------------------------------


def break_decay(monkeypatch):
    from fwt.bench.naive_torch import Naive

    monkeypatch.setattr(Naive, "decay", 0.5, raising=False)
    monkeypatch.setattr(Naive, "__setattr__", keeps("decay", Naive.__setattr__))


def keeps(kept: str, original: Any) -> Any:
    def set_other(self: Any, name: str, value: Any) -> None:
        if name != kept:
            original(self, name, value)

    return set_other


def break_gradients(monkeypatch):
    """The forward pass stays as it is; the gradient through the layer norm's mean is lost."""
    import torch

    from fwt.bench.naive_torch import Naive

    def layer_norm(self: Any, x: Any) -> Any:
        mean = x.detach().mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        return self.gain * (x - mean) / torch.sqrt(variance + self.epsilon) + self.bias

    monkeypatch.setattr(Naive, "layer_norm", layer_norm)


def break_gradients_to_nan(monkeypatch):
    from fwt.bench import torch_side

    monkeypatch.setattr(torch_side, "_gradient", lambda value: value.grad * float("nan"))


def break_outputs_to_nan(monkeypatch):
    from fwt.bench.naive_torch import Naive

    original = Naive.forward
    monkeypatch.setattr(Naive, "forward", lambda self, x: original(self, x) * float("nan"))


BREAKS = {
    "outputs": break_decay,
    "gradients": break_gradients,
    "gradients nan": break_gradients_to_nan,
    "outputs nan": break_outputs_to_nan,
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_subject_that_is_broken_gets_no_number(what, monkeypatch, tmp_path):
    need("torch")
    BREAKS[what](monkeypatch)
    arguments = ("--subject", "naive", "--subject", "lstm", "--measure", "train")
    more = ("--measure", "forward", "--backend", "torch", "--out", tmp_path / "b.json")
    done = fwt("bench", *QUICK, *arguments, *more)
    assert done.code == 1, done
    assert done.errors[0].startswith("error: bench: not equal to the equations: naive train at")
    assert f" {what} " in done.errors[0]
    for row in json.loads((tmp_path / "b.json").read_text())["rows"]:
        numbers = [row[key] for key in NUMBERS[:-1]]
        if row["subject"] == "naive":
            assert row["status"] == "fails the check"
            assert row["reason"].startswith(what)
            assert numbers == [None] * len(numbers)
            assert row["to_lstm"] is None
        else:
            assert row["status"] == "ok"
            assert None not in numbers
            assert row["naive_to"] is None
    table = done.out.splitlines()
    assert any("naive" in line and "fails the check" in line for line in table)


def test_the_step_that_is_timed_is_what_is_checked(monkeypatch):
    """Forward and gradients may be right and the training step wrong."""
    need("torch")
    from fwt.backends.torch.compiled import TorchCompiled

    original = TorchCompiled.train_step
    monkeypatch.setattr(
        TorchCompiled, "train_step", lambda self, rows, *more: original(self, rows[:1], *more)
    )
    with pytest.raises(CheckFailed, match="of the step"):
        check.check(side_of("torch"), "matrix", TINY)


def test_the_step_of_a_rival_is_checked_by_its_loss(monkeypatch):
    need("torch")
    from fwt.bench import torch_side

    monkeypatch.setattr(torch_side, "order_of", lambda batch: np.zeros(1, np.int64))
    with pytest.raises(CheckFailed, match="loss of the step"):
        check.check(side_of("torch"), "naive", TINY)


def test_a_stream_that_is_broken_gets_no_number(monkeypatch):
    need("torch")
    from fwt.bench.torch_side import OwnStreamer

    original = OwnStreamer.step
    monkeypatch.setattr(OwnStreamer, "step", lambda self, x: original(self, 2 * x))
    arguments = ("--measure", "stream", "--backend", "torch", "--json")
    done = fwt("bench", *QUICK, "--subject", "gru", "--subject", "naive", *arguments)
    assert done.code == 1
    assert "gru stream" in done.errors[0]
    by_name = {row["subject"]: row for row in done.json["rows"]}
    assert [by_name["gru"][key] for key in NUMBERS] == [None] * len(NUMBERS)
    assert by_name["naive"]["median_ms"] > 0


# --- not run ------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_and_not_run(monkeypatch):
    need("torch")
    monkeypatch.setattr(limits, "free_bytes", lambda: 2**19)
    arguments = ("--subject", "matrix", "--subject", "lstm", "--measure", "train")
    shape = ("--shape", "8,12,32,1", "--rounds", 5, "--seconds", 2, "--quiet")
    done = good("bench", *shape, *arguments, "--backend", "torch", "--json")
    first, second = done.json["rows"]
    assert (first["subject"], first["status"]) == ("matrix", "not run")
    assert "GiB are free" in first["reason"]
    assert first["median_ms"] is None
    assert (second["subject"], second["status"]) == ("lstm", "ok")


def test_what_takes_too_long_is_named_and_not_run(monkeypatch):
    need("torch")
    monkeypatch.setattr(suite, "PATIENCE", 0)
    found = suite.rows_of(side_of("torch"), TINY, options("train", names=("gru",)), CEILINGS, quiet)
    assert [(row["status"], row["median_ms"]) for row in found] == [("not run", None)]
    assert found[0]["reason"].startswith("a step, or the compilation of the first, takes ")


@pytest.mark.parametrize("told", [(99.0, 0.1), (0.1, 99.0)])
def test_what_took_too_long_in_a_process_of_its_own_is_not_tried_here(told, monkeypatch):
    side = side_of("torch")
    monkeypatch.setattr(child, "probe", lambda *_: child.Probe(*told, 4096, "somehow"))
    monkeypatch.setattr(suite, "check", lambda *_: pytest.fail("it was tried"))
    found = suite.rows_of(side, TINY, options("memory", names=("gru",)), CEILINGS, quiet)
    assert [(row["status"], row["peak_bytes"]) for row in found] == [("not run", None)]
    assert "takes 99.0 s" in found[0]["reason"]


def test_a_form_that_is_refused_is_not_run(monkeypatch):
    need("torch")
    from fwt.backends.torch.backend import TorchBackend

    def compile_(*arguments: Any, **more: Any) -> Any:
        raise ConfigError("memory: expected something else")

    side = side_of("torch")
    check.reference("fast-weights", TINY)
    monkeypatch.setattr(TorchBackend, "compile", compile_)
    found = suite.rows_of(side, TINY, options("train", names=("chunked",)), CEILINGS, quiet)
    assert (found[0]["status"], found[0]["reason"]) == (
        "not run",
        "memory: expected something else",
    )


class Finished:
    """What `subprocess.run` gives back."""

    def __init__(self, code: int, out: str = "", err: str = "") -> None:
        self.returncode, self.stdout, self.stderr = code, out, err


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Finished(-9), "was ended by SIGKILL"),
        (Finished(child.NO_MEMORY, err="a\nCUDA out of memory"), "ran out of memory: CUDA out of"),
        (Finished(0, '{"refused": "no such form"}'), "no such form"),
    ],
)
def test_the_end_of_a_process_is_a_reason(ended, reason, monkeypatch):
    side = side_of("torch")
    monkeypatch.setattr(child.subprocess, "run", lambda *words, **more: ended)
    with pytest.raises(child.Died, match=reason):
        child.probe(side, "lstm", TINY, 1.0)


def test_a_process_that_never_ends_is_a_reason_and_a_fault_is_a_fault(monkeypatch):
    side = side_of("torch")
    monkeypatch.setattr(child, "START_S", -1.99)
    with pytest.raises(child.Died, match="took more than"):
        child.probe(side, "lstm", TINY, 1.0)
    monkeypatch.setattr(child.subprocess, "run", lambda *w, **m: Finished(1, err="KeyError: 'x'"))
    with pytest.raises(RuntimeError, match="KeyError: 'x'"):
        child.probe(side, "lstm", TINY, 1.0)


def test_out_of_memory_is_told_from_other_faults(monkeypatch, capsys):
    def fails(text: str) -> None:
        monkeypatch.setattr(child, "run", lambda job: (_ for _ in ()).throw(RuntimeError(text)))
        child.answered({})

    with pytest.raises(SystemExit) as ended:
        fails("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    assert ended.value.code == child.NO_MEMORY
    assert "can't allocate" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="shapes"):
        fails("shapes do not match")
