"""Killed, stopped and starved processes: what they may leave, and a short `make torture`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.storage import checkpoint, durable
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training import evaluation, lockstep
from tests.cli_tools import ROOT, TINY, clean_environment, environment, fwt, good, snapshot
from tests.conftest import need
from tests.equal_runs import same_run
from tests.small_run import SPEC, Model, line, progress, save, saved_steps
from tools.torture import judge
from tools.torture.cases import unexpected
from tools.torture.plan import FAILING, MEANING, ROUND, Blow, blows
from tools.torture.start import Disk, Ended

RUN = (*TINY, "--eval-every", "3", "--save-every", "2", "--backend", "torch")


class Killed(BaseException):
    """The process dies here: nothing after it is done, and nothing catches it."""


class Dying:
    """A function in whose place the process dies at its `count`-th call."""

    def __init__(self, real, count):
        self.real, self.count, self.calls = real, count, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls == self.count:
            raise Killed
        return self.real(*arguments, **named)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return RunFolder.create(tmp_path / "run", SPEC)


# --- older checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_checkpoint_is_removed_as_a_whole(count, folder, monkeypatch):
    """Killed while the old one is removed: none that has its name is half of one."""
    for step in (0, 1):
        save(folder, step, keep=1)
    with monkeypatch.context() as patch:
        real = RunFolder._prune

        def prune(self, keep):
            patch.setattr(os, "unlink", Dying(os.unlink, count))
            real(self, keep)

        patch.setattr(RunFolder, "_prune", prune)
        with pytest.raises(Killed):
            save(folder, 2, keep=1)
    assert folder.latest_step() == 2
    assert judge.faults_between(folder.path) == []
    with RunFolder.open(folder.path) as again:
        again.restore(Model())
    assert saved_steps(folder) == [2]


def _copy(run: Path) -> Path:
    return shutil.copytree(run, run.with_name("copy"))


def test_older_checkpoints_are_removed_by_the_process_that_goes_on(folder, monkeypatch):
    """Killed after the last pointer, before anything was removed, at the last save of a run."""
    for step in (0, 1):
        save(folder, step)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_prune", Dying(RunFolder._prune, 1))
        with pytest.raises(Killed):
            save(folder, 2)
    assert saved_steps(folder) == [0, 1, 2]
    folder.restore(Model())
    assert saved_steps(folder) == [1, 2]


def test_a_checkpoint_that_cannot_be_removed_is_told_and_the_run_goes_on(folder, monkeypatch):
    for step in (0, 1):
        save(folder, step)

    def refused(path: Path, target: Path) -> None:
        if path.name == "step-00000000":
            raise PermissionError(1, "Operation not permitted")
        os.rename(path, target)

    monkeypatch.setattr(durable, "rename", refused)
    monkeypatch.setattr(checkpoint, "rename", refused)
    with pytest.warns(UserWarning, match=r"step-00000000: cannot be removed: Operation not"):
        save(folder, 2)
    assert saved_steps(folder) == [0, 1, 2]
    assert folder.latest_step() == 2


# --- what reaches the disk first ----------------------------------------------------------


def test_metrics_are_on_the_disk_before_what_says_that_they_are(folder, monkeypatch):
    """After a loss of power, too, no line is missing of a step that a checkpoint has made."""
    done: list[str] = []
    real_sync, real_rename = durable.sync_file, durable.rename

    def sync(path: Path) -> None:
        done.append(path.name)
        real_sync(path)

    def rename(path: Path, target: Path) -> None:
        done.append(f"= {target.name}")
        real_rename(path, target)

    monkeypatch.setattr(durable, "sync_file", sync)
    monkeypatch.setattr(durable, "rename", rename)
    folder.append_metrics(line(1))
    folder.save(Model(), SPEC, progress(1))
    folder.append_metrics(line(1, "test"))
    folder.finish({"test": 1})
    kept = [name for name in done if name in ("metrics.jsonl", "= last", "= DONE")]
    assert kept == ["metrics.jsonl", "= last", "metrics.jsonl", "= DONE"]


# --- two processes at once ----------------------------------------------------------------


def test_of_two_processes_that_begin_in_one_folder_at_once_one_is_refused(tmp_path, monkeypatch):
    path, other = tmp_path / "run", SPEC.model_copy(update={"report": SPEC.report})
    refused: list[str] = []
    real = durable.write_text

    def write_text(place: Path, text: str) -> None:
        monkeypatch.undo()
        with pytest.raises(ConfigError) as found:  # the second begins while the first does
            RunFolder.create(path, other)
        refused.append(str(found.value))
        real(place, text)

    monkeypatch.setattr(durable, "write_text", write_text)
    folder = RunFolder.create(path, SPEC)
    assert refused == [
        f"out: {path} is in use by another process; wait for it or use another folder"
    ]
    with pytest.raises(ConfigError, match="exists; go on with"):
        RunFolder.create(path, SPEC)
    assert folder.read_spec() == SPEC


def test_a_process_killed_before_it_wrote_anything_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".spec.json.partial").write_text("{")
    assert RunFolder.create(tmp_path / "run", SPEC).read_spec() == SPEC


def test_a_lock_that_is_a_link_is_not_one_of_a_killed_process(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="a folder that holds something else"):
        RunFolder.create(tmp_path / "run", SPEC)
    assert not (tmp_path / "mine").exists()


# --- the end of a run ---------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_the_final_evaluation_stops_it(sent, code, tmp_path, monkeypatch):
    need("torch")
    whole, run = tmp_path / "whole", tmp_path / "run"
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 16)  # of 64 examples
    good("train", *RUN, "--out", whole)
    real, calls = lockstep.Alone.evaluate, []

    def evaluate(self, inputs, targets):
        calls.append(len(targets))
        if len(calls) == 10:  # after two validations, in the second batch of the test split
            os.kill(os.getpid(), getattr(signal, sent))
        return real(self, inputs, targets)

    with monkeypatch.context() as patch:
        patch.setattr(lockstep.Alone, "evaluate", evaluate)
        done = fwt("train", *RUN, "--quiet", "--out", run)
    assert done.code == code, done
    assert "at step 6 of 6" in done.err
    assert f"go on with: fwt train --resume {run}" in done.err
    assert len(calls) == 10
    assert not (run / "DONE").exists()
    good("train", "--resume", run)
    same_run(run, whole)


def test_a_run_whose_process_was_killed_after_done_is_said_to_be_done(tmp_path):
    need("torch")
    run = tmp_path / "run"
    first = good("train", *RUN, "--out", run, "--json").json
    before = snapshot(run)
    notes = json.loads((run / "run.json").read_text())
    notes["sessions"][-1] |= {"exit": "running"}
    (run / "run.json").write_text(json.dumps(notes))
    (run / ".run.json.partial").write_text('{"sessions": [')
    again = good("train", "--resume", run, "--json").json
    assert again == first
    (session,) = json.loads((run / "run.json").read_text())["sessions"]
    assert session["exit"] == "done"
    assert snapshot(run).keys() == before.keys()


# --- the harness itself -------------------------------------------------------------------


def test_a_plan_depends_on_seed_backend_and_number_alone_and_strikes_everywhere():
    points = ["open x", "fsync x", "rename x to y", "update", "mkdir x"] * 15
    points += ["open x", "fsync x", "rename x to y"] * 5

    def plans_of(seed: int) -> list[list[Blow]]:
        return [blows(seed, "torch", number, points) for number in range(10 * len(ROUND))]

    plans = plans_of(3)
    assert plans == plans_of(3)
    assert plans != plans_of(4)
    assert {plan[0].kind for plan in plans} == set(MEANING) == set(ROUND)
    kills = [plan[0].at for plan in plans if plan[0].kind == "kill"]
    assert set(kills) == set(range(90))  # every boundary, before one has a third turn
    assert all(74 <= plan[0].at < 90 for plan in plans if plan[0].kind == "late")
    for kind in FAILING:
        struck = {plan[0].at for plan in plans if plan[0].kind == kind}
        assert struck == {at for at, label in enumerate(points) if label.startswith(kind)}
        assert {plan[0].lasts for plan in plans if plan[0].kind == kind} == {False, True}
    assert {len(plan) for plan in plans} == {1, 2, 3, 4}


def test_the_judge_sees_what_must_not_be(folder):
    whole = _copy(folder.path)
    save(folder, 1, best=1)
    shutil.rmtree(whole)
    whole = _copy(folder.path)
    folder.append_metrics(line(1))
    assert judge.faults_at_end(folder.path, folder.path) == []
    assert judge.faults_at_end(folder.path, whole) == ["metrics.jsonl: stray"]
    path = folder.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert judge.faults_between(folder.path) == []
    path.write_text('{"st\n{"step": 1}\n')
    assert "JSONDecodeError" in judge.faults_between(folder.path)[0]
    path.unlink()
    model = folder.path / "checkpoints" / "step-00000001" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:100])
    assert any("CheckpointError" in each for each in judge.faults_between(folder.path))
    assert any("model.safetensors: differs" in e for e in judge.faults_at_end(folder.path, whole))


def test_the_harness_expects_the_documented_ends():
    def ended(code: int, err: str = "") -> Ended:
        return Ended(code, err, [], 0.0)

    assert unexpected(Blow("full"), ended(4, "error: x\n")) == []
    assert unexpected(Blow("full"), ended(1, "Traceback\n  x\n")) != []
    assert unexpected(Blow("full"), ended(4, "error: x\nerror: y\n")) != []
    for kind in FAILING:
        assert unexpected(Blow(kind), ended(4, "error: x: cannot be written\n")) == []
        assert unexpected(Blow(kind), ended(1, "Traceback\n")) != []
    assert unexpected(Blow("rename"), ended(0, "warning: x: cannot be removed: y\n")) == []
    assert unexpected(Blow("kill"), ended(-9)) == []
    assert unexpected(Blow("kill"), ended(1)) != []
    assert unexpected(Blow("term"), ended(143, "x; go on with: fwt train --resume r\n")) == []
    assert unexpected(Blow("term"), ended(143, "")) != []
    assert unexpected(Blow("hup"), ended(129, "x; go on with: fwt train --resume r\n")) == []
    assert unexpected(Blow("hup"), ended(-1)) == []  # before there was a run
    assert unexpected(Blow("hup"), ended(143, "x; go on with: fwt train --resume r\n")) != []
    assert unexpected(Blow("pipe"), ended(0, "step 1\n")) == []
    assert unexpected(Blow("device"), ended(4, "step 1\n")) == []
    assert unexpected(Blow("closed"), ended(4)) == []
    for kind in ("pipe", "device", "closed"):
        assert unexpected(Blow(kind), ended(1, "step 1\n")) != []
        assert unexpected(Blow(kind), ended(120)) != []


RAISING = """
import sys
from pathlib import Path
import fwt.cli.main
from tools.torture.start import begin

def run(words):
    raise {kind}("what went wrong")

fwt.cli.main.run = run
ended = begin([], Path(sys.argv[1]), None)
print(ended.code)
print(ended.err)
"""


@pytest.mark.parametrize("kind", ["RuntimeError", "KeyboardInterrupt", "SystemExit"])
def test_whatever_a_process_of_the_harness_raises_is_said_and_a_fault(kind, tmp_path):
    words = [sys.executable, "-c", RAISING.format(kind=kind), str(tmp_path)]
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    code, *said = done.stdout.splitlines()  # once: the child did not go on in the harness
    assert code == "1", done
    assert said[0] == "Traceback (most recent call last):"
    assert f"{kind}: what went wrong" in said
    assert unexpected(Blow("kill"), Ended(int(code), "\n".join(said), [], 0.0)) != []


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_short_round_of_torture(name, tmp_path):
    need(name)
    out = tmp_path / "torture.json"
    words = ["-m", "tools.torture", "--kills", "8", "--seed", "5", "--backend", name]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(out)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert (result["bad"], result["findings"]) == (0, [])
    assert result["struck"] >= 8
    assert result["struck"] == sum(result["backends"][name]["struck"].values())
    assert str(tmp_path) not in out.read_text()


def test_a_disk_is_full_when_it_can_be_made(tmp_path):
    if not Disk.possible():
        pytest.skip("needs the rights to mount; RLIMIT_FSIZE stands for it")
    code = (
        "from pathlib import Path; from tools.torture.start import Disk\n"
        f"disk = Disk(Path({str(tmp_path / 'disk')!r})); disk.resize(16)\n"
        "try:\n    (disk.folder / 'x').write_bytes(bytes(100_000))\n"
        "except OSError as error:\n    print(error.strerror)\n"
        "disk.resize(1024); (disk.folder / 'x').write_bytes(bytes(100_000))\n"
    )
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "No space left on device\n"), done.stderr
