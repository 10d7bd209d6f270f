"""What may change of a run that goes on: its length and its reports, and nothing of what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt.fwcore.errors import FileError
from fwt.fwcore.spec import RunSpec, Stage, TrainSpec
from fwt.fwcore.storage import checkpoint, durable
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.schedule import learning_rate
from tests.cli_tools import SMALL, clean_environment, fwt, good, refused, snapshot
from tests.equal_runs import metrics

# 8 updates an epoch
RUN = (
    "train", "--task", "retrieval", "--size", 4, "--batch-size", 32, "--lr", 0.01, *SMALL,
    "--log-every", 4, "--quiet",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(scope="module", name="short")
def _short(tmp_path_factory):
    """A run of two epochs that is done, with a cosine."""
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        folder = tmp_path_factory.mktemp("runs") / "short"
        good(*RUN, "--schedule", "cosine", "--epochs", 2, "--backend", "torch", "--out", folder)
    return folder


@pytest.fixture(name="run")
def _run(short, tmp_path):
    return Path(shutil.copytree(short, tmp_path / "run"))


def resume(run: Path, *more: object) -> Any:
    return good("train", "--resume", run, "--backend", "torch", "--quiet", "--json", *more).json


def spec_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "spec.json").read_text())


def same_weights(one: Path, other: Path) -> None:
    """Bit for bit: weights, moments and best step of the last checkpoints."""
    first, second = (checkpoint.read(RunFolder(run).latest()) for run in (one, other))
    assert first.progress.step == second.progress.step
    assert first.progress.best == second.progress.best
    for have, want in ((first.params, second.params), (first.moments, second.moments)):
        assert have.keys() == want.keys()
        assert all(np.array_equal(have[name], want[name]) for name in want)


# --- threads ------------------------------------------------------------------------------


def test_threads_are_recorded_and_another_number_of_them_is_said(tmp_path, torch_threads):
    run, words = tmp_path / "run", ("--backend", "torch", "--device", "cpu", "--quiet")
    torch_threads(1)
    good(*RUN, "--epochs", 2, "--stop-after", 3, "--out", run, *words)
    torch_threads(2)
    done = good("train", "--resume", run, "--stop-after", 3, *words)
    assert done.err == (
        "threads   1 -> 2: weights from here on are not bit for bit those of 1; "
        "for the same: OMP_NUM_THREADS=1\n"
    )
    assert good("train", "--resume", run, *words).err == ""
    sessions = RunFolder.open(run).sessions()
    assert [session["threads"] for session in sessions] == [1, 2, 2]


@pytest.fixture(name="torch_threads")
def _torch_threads():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- a longer run -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_two_epochs_and_two_more_are_four_bit_for_bit(backend, tmp_path):
    where = ("--backend", backend, "--schedule", "constant", "--dropout", 0.1)
    good(*RUN, *where, "--epochs", 2, "--out", tmp_path / "two")
    good(*RUN, *where, "--epochs", 4, "--out", tmp_path / "four")
    longer = ("train", "--resume", tmp_path / "two", "--epochs", 4, "--backend", backend)
    found = good(*longer, "--quiet", "--json").json
    assert (found["done"], found["steps"]) == (True, 32)
    same_weights(tmp_path / "two", tmp_path / "four")
    assert metrics(tmp_path / "two") == metrics(tmp_path / "four")


def test_the_spec_and_the_notes_say_what_was_done(run):
    before = spec_of(run)
    resume(run, "--epochs", 4, "--stop-after", 3)
    assert not (run / "DONE").exists()  # it is not at its end any more
    after = spec_of(run)
    earlier = [{"until": 16, "epochs": 2.0, "steps": None}]
    train = {**before["train"], "epochs": 4.0, "earlier": earlier}
    assert after == {**before, "train": train}
    *_, first, second = json.loads((run / "run.json").read_text())["sessions"]
    assert "changed" not in first
    assert second["changed"] == {
        "train.epochs": {"from": 2.0, "to": 4.0},
        "train.earlier": {"from": None, "to": earlier},
    }
    resume(run)  # the length stays
    assert json.loads((run / "DONE").read_text())["steps"] == 32
    assert [line["step"] for line in metrics(run) if line["split"] == "test"] == [32]


def test_a_cosine_goes_on_as_that_of_the_new_length_and_the_spec_repeats_the_run(run, tmp_path):
    resume(run, "--epochs", 3, "--stop-after", 2)
    resume(run, "--steps", 40)
    train = TrainSpec(lr=0.01, schedule="cosine", steps=40, batch_size=32)
    totals = [16] * 16 + [24] * 2 + [40] * 22
    rates = [learning_rate(train, step, total) for step, total in enumerate(totals)]
    lines = [line for line in metrics(run) if line["split"] == "train"]
    assert {line["step"] for line in lines} >= {4, 8, 12, 16, 20, 40}
    assert [line["lr"] for line in lines] == [rates[line["step"] - 1] for line in lines]
    again = tmp_path / "again"
    good("train", "--config", run / "spec.json", "--out", again, "--backend", "torch", "--quiet")
    assert spec_of(again) == spec_of(run)
    same_weights(run, again)
    assert metrics(again) == metrics(run)


def test_an_extended_run_is_resumed_bit_for_bit(run, tmp_path):
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    resume(whole, "--epochs", 4)
    resume(run, "--epochs", 4, "--stop-after", 5)
    resume(run, "--stop-after", 1)
    resume(run)
    same_weights(run, whole)
    assert metrics(run) == metrics(whole)


def test_what_is_said_of_a_new_length(run):
    done = good("train", "--resume", run, "--steps", 17, "--backend", "torch")
    line = "length    16 -> 17 updates; learning rates after update 16 are those of a run of 17"
    assert line in done.err.splitlines()


def test_a_run_can_be_made_shorter_than_planned_but_not_than_made(run):
    before = snapshot(run)
    for length in (("--epochs", 1), ("--steps", 16), ("--steps", 5)):
        words = ["has made 16 updates", "expected a longer run", f"{length[0][2:]}={length[1]}"]
        refused(2, words, "train", "--resume", run, *length)
    words = ["exactly one of epochs and steps", "epochs=9", "steps=99"]
    refused(2, words, "train", "--resume", run, "--epochs", 9, "--steps", 99)
    refused(2, ["train.steps=-3"], "train", "--resume", run, "--steps", -3)
    assert snapshot(run) == before
    resume(run, "--epochs", 100, "--stop-after", 1)
    assert resume(run, "--steps", 20)["steps"] == 20
    assert [stage["until"] for stage in spec_of(run)["train"]["earlier"]] == [16, 17]


def test_lengths_that_made_no_update_are_not_kept(run, tmp_path):
    resume(run, "--epochs", 9, "--dry-run")
    assert "earlier" not in spec_of(run)["train"]
    folder = RunFolder(run)
    before = folder.read_spec()
    for steps in (50, 60):
        train = before.train.model_copy(update={"epochs": None, "steps": steps})
        planned = before.model_copy(update={"train": train})
        with folder:
            folder.revise(folder.read_spec(), planned, 16)
    resume(run, "--steps", 18)
    assert [stage["steps"] for stage in spec_of(run)["train"]["earlier"]] == [60]
    resume(run, "--steps", 19)
    resume(run, "--steps", 20)
    assert [stage["steps"] for stage in spec_of(run)["train"]["earlier"]] == [60, 18, 19]


def test_lengths_of_a_run():
    stages = (Stage(until=16, epochs=2), Stage(until=18, steps=30))
    train = TrainSpec(epochs=4, batch_size=32, earlier=stages)
    assert [train.total_steps(256, step) for step in (0, 15, 16, 17, 18)] == [16, 16, 30, 30, 32]
    assert train.total_steps(256) == 32
    assert train.ends(256) == {16, 32}  # the second length's end was never reached


def test_a_spec_without_earlier_lengths_keeps_its_json_and_hash():
    data = TrainSpec(epochs=2).json_data()
    assert "earlier" not in data
    assert (
        TrainSpec(epochs=2, earlier=(Stage(until=1, steps=1),)).digest()
        != TrainSpec(epochs=2).digest()
    )


# --- killed, or hindered, while the length changes ----------------------------------------


@pytest.mark.parametrize("call", ["sync_folder", "write_text"])
def test_a_change_that_is_cut_short_leaves_a_run_that_goes_on(call, run, tmp_path, monkeypatch):
    """DONE goes first, then the spec comes whole: at each point the run is one that goes on."""
    first = json.loads((run / "DONE").read_text())
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise FileError("cut short") if call == "write_text" else OSError(5, "cut short")

        patch.setattr(durable, call, fail)
        refused(4, ["cut short"], "train", "--resume", run, "--epochs", 4, "--backend", "torch")
    assert not (run / "DONE").exists()
    assert "earlier" not in spec_of(run)["train"]
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    found = resume(copy)  # what it was
    assert {key: found[key] for key in first} == first
    assert resume(run, "--epochs", 4)["steps"] == 32


def test_another_process_that_was_quicker_is_not_overwritten(run):
    folder = RunFolder(run)
    spec = folder.read_spec()
    longer = RunSpec.parse({**spec.json_data(), "train": {"steps": 99}}, "spec")
    before = snapshot(run)
    with folder:
        for known, step in ((spec, 15), (longer, 16)):
            with pytest.raises(Exception, match="changed by another process just now"):
                folder.revise(known, longer, step)
    assert snapshot(run) == before


# --- reports ------------------------------------------------------------------------------


def test_reports_may_change_and_the_model_may_not(tmp_path):
    run = tmp_path / "run"
    where = ("--backend", "torch", "--steps", 16, "--schedule", "constant", "--lr", 0.01)
    good(*RUN, *where, "--stop-after", 8, "--out", run)
    words = ["has another spec", "train.lr=0.01", "train.lr=0.5"]
    refused(2, words, "train", "--resume", run, "--lr", 0.5, "--log-every", 2)
    words = ["unknown key 'report.log_evry'", "report.log_every"]
    refused(2, words[:1], "train", "--resume", run, "--set", "report.log_evry=2")
    changes = ("--log-every", 2, "--eval-every", 4, "--save-every", 2, "--keep", 3)
    resume(run, *changes)
    report = {"log_every": 2, "eval_every": 4, "save_every": 2, "keep": 3}
    assert spec_of(run)["report"] == report
    steps = [(line["step"], line["split"]) for line in metrics(run)]
    assert [step for step, split in steps if split == "train"] == [4, 8, 10, 12, 14, 16]
    assert [step for step, split in steps if split == "val"] == [8, 12, 16]
    session = json.loads((run / "run.json").read_text())["sessions"][-1]
    assert session["changed"]["report.log_every"] == {"from": 4, "to": 2}
    assert session["changed"].keys() == {f"report.{key}" for key in report}
    good(*RUN, *where, "--out", tmp_path / "whole")
    one, other = (checkpoint.read(RunFolder(each).latest()) for each in (run, tmp_path / "whole"))
    assert all(np.array_equal(one.params[name], other.params[name]) for name in other.params)


def test_a_run_that_is_done_keeps_its_reports(run):
    before = snapshot(run)
    assert resume(run, "--log-every", 2)["done"]
    assert snapshot(run) == before


# --- variables ----------------------------------------------------------------------------


def test_variables_for_new_runs_do_not_concern_one_that_goes_on(run, monkeypatch, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[train]\nlr = 0.5\n")
    for name, value in {
        "OUT": tmp_path / "x", "SIZE": 9, "TASK": "mnist-glimpse", "MODEL": "lstm", "SEED": 3,
        "EPOCHS": 4, "LR": "1e-3,2e-3", "LOG_EVERY": 1, "CONFIG": config, "CONTROL": "flat",
        "RUNS_DIR": tmp_path / "y", "SEEDS": "0-3",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FWT_{name}", str(value))
    before = snapshot(run)
    assert resume(run)["steps"] == 16
    assert snapshot(run) == before
    monkeypatch.setenv("FWT_DEVICE", "cuda:9")  # where it runs is not what it is
    done = fwt("train", "--resume", run, "--epochs", 3, "--backend", "torch")
    assert (done.code, "cuda:9" in done.err) == (3, True)
