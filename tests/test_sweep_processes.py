"""`fwt sweep` on a scheduler and workers of their own, of which some are killed in its middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from fwt.sweep.study import connect
from tests.cli_tools import ROOT, TINY_BASE, Done, clean_environment, environment
from tests.conftest import need

STEPS = 60
SAVED = "Interrupted (exit 143)"
LIMIT = 90  # seconds within which anything here must have happened
# 4 trials in batches of 2
SWEEP = f"""
name = "tiny"
task = "retrieval"
backend = "mlx"
{TINY_BASE}
model = "irnn"
log_every = 5
steps = {STEPS}
eval_every = 20
save_every = 5
[search]
trials = 4
batch = 2
seed = 5
[search.space]
lr = {{ low = 1e-4, high = 1e-1, log = true }}
"""
# in a worker: updates are so slow that runs are met in their middle, until a file is there
SLOW = """
import pathlib, time
from fwt.fwcore.training.batches import BatchOrder
def slowed(real, go):
    def rows(*arguments):
        if not go.exists():
            time.sleep(0.1)
        return real(*arguments)
    return rows
BatchOrder.rows = slowed(BatchOrder.rows, pathlib.Path({go!r}))
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


class Dask:
    """A scheduler, and workers that can be killed; a context manager that leaves no process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: list[subprocess.Popen[bytes]] = []
        self._go, self._slow = folder / "go", folder / "slow.py"
        self._slow.write_text(SLOW.format(go=str(self._go)))
        self.port = 0
        self.start()

    def go(self) -> None:
        """Runs are quick from now on."""
        self._go.touch()

    def whole(self) -> None:
        """Slow again, with whatever has ended started again."""
        self._go.unlink(missing_ok=True)
        if self.scheduler.poll() is not None:
            self.start()
        self.workers = [each for each in self.workers if each.poll() is None]
        self.workers += [self._worker() for _ in range(2 - len(self.workers))]

    def start(self) -> None:
        """A scheduler, again on the port of the first, and two workers."""
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--scheduler-file", str(file)]
        self.scheduler = self._process("dask_scheduler", *words, "--no-dashboard")
        await_(lambda: file.exists() and file.read_text(), self.scheduler)
        self.address = json.loads(file.read_text())["address"]
        self.port = int(self.address.rpartition(":")[2])
        self.workers = [self._worker() for _ in range(2)]

    def _worker(self) -> subprocess.Popen[bytes]:
        words = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", str(self._slow)]
        words += ["--local-directory", str(self._folder)]
        return self._process("dask_worker", self.address, *words)

    def _process(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *words],
                cwd=ROOT,
                env=environment(MLX_DISABLE_COMPILE="1"),
                stdout=log,
                stderr=log,
            )
        self._begun.append(process)
        return process

    def __enter__(self) -> Dask:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._begun:
            process.kill()
            process.wait(timeout=LIMIT)


def await_(wanted: Callable[[], Any], process: subprocess.Popen[Any]) -> None:
    """Until something is so, which it must become while a process goes on."""
    limit = time.monotonic() + LIMIT
    while not wanted():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


class Sweep:
    """`fwt sweep` as a process of its own, and the runs that it makes."""

    def __init__(self, folder: Path, *more: object) -> None:
        folder.mkdir(exist_ok=True)
        self.runs, self.file = folder / "runs", folder / "tiny.toml"
        self.file.write_text(SWEEP)
        words = ["sweep", self.file, "--runs-dir", self.runs, "--json", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fwt.cli.main", *map(str, words)],
            cwd=ROOT,
            env=environment(MLX_DISABLE_COMPILE="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def middle(self) -> None:
        """Wait until both runs of a batch have begun and been saved; neither is near its end."""

        def both() -> bool:
            steps = [int(path.read_text()[5:]) for path in self.runs.glob("retrieval/*/last")]
            return len(steps) == 2 and min(steps) > 0

        await_(both, self.process)
        assert not list(self.runs.glob("retrieval/*/DONE"))

    def sessions(self) -> list[list[str]]:
        """How the sessions of each run ended."""
        notes = [json.loads(path.read_text()) for path in self.runs.glob("retrieval/*/run.json")]
        return sorted([each["exit"].partition(":")[0] for each in n["sessions"]] for n in notes)

    def end(self) -> Done:
        out, err = self.process.communicate(timeout=LIMIT)
        return Done(self.process.returncode, out, err)


@pytest.fixture(scope="module", name="cluster")
def _cluster(tmp_path_factory) -> Iterator[Dask]:
    need("mlx")
    with Dask(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture(name="dask")
def _dask(cluster: Dask) -> Dask:
    cluster.whole()
    return cluster


@pytest.fixture(scope="module", name="wanted")
def _wanted(tmp_path_factory):
    """What the sweep finds that nothing happens to."""
    need("mlx")
    return table(Sweep(tmp_path_factory.mktemp("wanted"), "--workers", 2).end())


def table(done: Done) -> list[Any]:
    """The trials of a sweep that is done, without what depends on the clock."""
    assert done.code == 0, done
    trials = done.json["groups"][0]["trials"]
    for trial in trials:
        for run in trial["runs"]:
            assert run.pop("train_s") > 0
    return trials


def check_exactly_once(found: Sweep, trials: list[Any]) -> list[list[str]]:
    """Each trial is in the study, each run in the table and in one folder; no step is told twice.

    Gives back how the sessions of each run ended.
    """
    storage = connect(found.runs / "sweeps/tiny/study.db")
    (name,) = optuna.study.get_all_study_names(storage)
    kept = optuna.load_study(study_name=name, storage=storage).get_trials()
    assert [each.number for each in kept] == [0, 1, 2, 3]
    assert {each.state for each in kept} == {TrialState.COMPLETE}
    named = sorted(run["run"] for trial in trials for run in trial["runs"])
    folders = sorted(found.runs.glob("retrieval/*"))
    assert [str(each.relative_to(found.runs)) for each in folders] == named
    assert len(named) == len(set(named)) == 4
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        told = [(line["step"], line["split"]) for line in lines]
        train = [step for step, split in told if split == "train"]
        assert train == list(range(5, STEPS + 1, 5))
        assert len(set(told)) == len(told)
        assert (folder / "DONE").is_file()
    sessions = found.sessions()
    assert all(each.count("done") == 1 and each[-1] == "done" for each in sessions)
    return sessions


def attempts(done: Done) -> int:
    """How many runs were begun again."""
    return sum("attempt 2" in line for line in done.err.splitlines())


@pytest.mark.parametrize(
    ("sent", "left"), [("SIGKILL", "its process is gone"), ("SIGTERM", "Interrupted")]
)
def test_a_worker_ends_in_the_middle_and_the_other_one_does_its_run(
    sent, left, dask, wanted, tmp_path
):
    sweep = Sweep(tmp_path / "sweep", "--scheduler", dask.address)
    sweep.middle()
    dask.workers[0].send_signal(getattr(signal, sent))
    dask.workers[0].wait(timeout=LIMIT)
    dask.go()
    done = sweep.end()
    trials = table(done)
    assert trials == wanted
    assert attempts(done) == 1
    ends = check_exactly_once(sweep, trials)
    assert [len(each) for each in ends].count(2) == 1, ends
    assert any(each[0].startswith(left) for each in ends), ends


def test_the_scheduler_is_killed_and_comes_back(dask, wanted, tmp_path):
    sweep = Sweep(tmp_path / "sweep", "--scheduler", dask.address)
    sweep.middle()
    dask.scheduler.kill()
    for worker in dask.workers:
        worker.wait(timeout=LIMIT)  # that is what Dask's workers do
    dask.start()
    dask.go()
    done = sweep.end()
    trials = table(done)
    assert trials == wanted
    assert f"lost      {dask.address}; waiting for it, at most 60 s" in done.err.splitlines()
    assert attempts(done) == 2
    ends = check_exactly_once(sweep, trials)
    assert ends == [[SAVED, "done"]] * 2 + [["done"]] * 2  # saved by the workers that lost it


def test_the_scheduler_does_not_come_back_and_the_same_command_goes_on(dask, wanted, tmp_path):
    sweep = Sweep(tmp_path / "sweep", "--scheduler", dask.address, "--reconnect", 1, "--quiet")
    sweep.middle()
    dask.scheduler.kill()
    done = sweep.end()
    assert (done.code, done.out) == (3, "")
    assert done.err.count("\n") == 1, done.err
    (line,) = done.err.splitlines()
    assert line.startswith("error: --scheduler: expected the lost one at")
    assert "the same command goes on" in line
    for worker in dask.workers:
        worker.wait(timeout=LIMIT)
    dask.start()
    dask.go()
    again = Sweep(tmp_path / "sweep", "--scheduler", dask.address)
    trials = table(again.end())
    assert trials == wanted
    check_exactly_once(again, trials)


def test_the_sweep_itself_is_killed_and_the_same_command_goes_on(dask, wanted, tmp_path):
    """The workers save and leave what nobody waits for, and begin it again for the next."""
    sweep = Sweep(tmp_path / "sweep", "--scheduler", dask.address)
    sweep.middle()
    sweep.process.kill()
    sweep.process.communicate(timeout=LIMIT)
    await_(lambda: [each[-1] for each in sweep.sessions()] == [SAVED] * 2, dask.scheduler)
    dask.go()
    again = Sweep(tmp_path / "sweep", "--scheduler", dask.address)
    trials = table(again.end())
    assert trials == wanted
    assert check_exactly_once(again, trials) == [[SAVED, "done"]] * 2 + [["done"]] * 2
