"""Sweeps at the same time: one sweep twice, two that share runs, a run that someone else trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from fwt.execute.batch import carry_out, work
from fwt.fwcore.errors import Interrupted
from fwt.fwcore.training.group import Hooks
from fwt.jobs import Failure, Job, Outcome, last_outcome
from tests.cli_tools import ROOT, clean_environment, environment, refused
from tests.conftest import light, need
from tests.sweep_tools import SWEEP, short_jobs, sweep_file

STEPS = 40
GRID = f"{SWEEP}steps = {STEPS}\n[axes]\nseed = '0-3'\n"
LIMIT = 120  # seconds


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def begun(file: Path, runs: Path) -> subprocess.Popen[str]:
    """`fwt sweep` as a process of its own with one worker."""
    words = ["sweep", file, "--workers", "1", "--runs-dir", runs, "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "fwt.cli.main", *map(str, words)],
        cwd=ROOT,
        env=environment(MLX_DISABLE_COMPILE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def failures(found: dict[str, Any]) -> list[str | None]:
    return [
        run["failure"] for group in found["groups"] for t in group["trials"] for run in t["runs"]
    ]


def test_one_sweep_twice_and_another_that_shares_its_runs(tmp_path):
    runs, grid = tmp_path / "runs", GRID.replace('"torch"', f'"{light()}"')
    files = [sweep_file(tmp_path, name, grid) for name in ("one", "one", "two")]
    processes = [begun(file, runs) for file in files]
    both = [ended(process) for process in processes]
    first, second = sorted(both[:2])
    assert first[0] == 0, first
    assert second[0] == 2, second
    line = second[2].splitlines()[-1]
    assert line == (
        f"error: sweep: {runs / 'sweeps' / 'one'} is in use by another process; wait for it, or "
        "give this one another name"
    )
    assert both[2][0] == 0, both[2]
    for name, out in (("one", first[1]), ("two", both[2][1])):
        written = json.loads((runs / "sweeps" / name / "summary.json").read_text())
        assert written == json.loads(out)
        assert failures(written) == [None] * 4
    for run in (runs / "retrieval").iterdir():  # trained once, by one of both
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if line["split"] == "train"]
        assert steps == list(range(10, STEPS + 1, 10))
        assert len(json.loads((run / "run.json").read_text())["sessions"]) == 1


@pytest.fixture(name="jobs")
def _jobs(tmp_path) -> list[Job]:
    """Two short runs."""
    need("torch")
    return short_jobs(tmp_path, 2)


def carried_out(
    jobs: list[Job], waits: threading.Event, into: list[list[Outcome]]
) -> threading.Thread:
    """A batch that is begun in a thread."""
    thread = threading.Thread(target=lambda: into.append(carry_out(work, jobs, Hooks(), waits.set)))
    thread.start()
    return thread


def test_a_batch_waits_for_a_run_that_is_trained_elsewhere_and_takes_its_end(jobs, tmp_path):
    one, other = jobs
    (alone,) = carry_out(work, [other], Hooks(), lambda: None)
    aside = other.folder.rename(tmp_path / "aside")
    found: list[list[Outcome]] = []
    waits = threading.Event()
    other.folder.mkdir()
    with filelock.FileLock(other.folder / ".lock"):
        thread = carried_out(jobs, waits, found)
        assert waits.wait(LIMIT)
        assert last_outcome(one) is None
        shutil.copytree(aside, other.folder, dirs_exist_ok=True)  # it is ended there
    thread.join(LIMIT)
    ((first, second),) = found
    assert (first.failure, second) == (None, alone)
    assert last_outcome(one) == replace(first, attempts=0)


def test_a_batch_that_waits_can_be_stopped(jobs):
    stops: list[int] = []
    jobs[0].folder.mkdir(parents=True)
    with filelock.FileLock(jobs[0].folder / ".lock"):
        hooks = Hooks(stop_signal=lambda: stops[0] if stops else None)
        with pytest.raises(Interrupted):
            carry_out(work, jobs, hooks, lambda: stops.append(15))


def test_a_run_that_is_begun_elsewhere_at_the_same_time_is_gone_on_with(jobs, monkeypatch):
    """Its folder comes into being between two looks at it."""
    from fwt.execute import batch

    real = batch.prepare
    job = jobs[0]

    def prepare(*arguments):
        monkeypatch.setattr(batch, "prepare", real)
        carry_out(work, [job], Hooks(), lambda: None)
        return real(*arguments)

    monkeypatch.setattr(batch, "prepare", prepare)
    (found,) = carry_out(work, [job], Hooks(), lambda: None)
    assert replace(found, attempts=0) == last_outcome(job)
    assert len(json.loads((job.folder / "run.json").read_text())["sessions"]) == 1


def test_one_run_of_a_batch_that_diverges_is_the_only_one_that_failed(jobs, monkeypatch):
    from fwt.execute import batch
    from fwt.fwcore.errors import DivergedError

    done = carry_out(work, [jobs[0]], Hooks(), lambda: None)[0]

    def diverges(*_):
        raise DivergedError("train: it did")

    monkeypatch.setattr(batch.alone, "train_in", diverges)
    found = carry_out(work, jobs, Hooks(), lambda: None)
    assert found == [
        done,
        Outcome(jobs[1], failure=Failure.read("DivergedError (exit 5): train: it did")),
    ]


def test_stored_runs_are_written_by_one_process_at_a_time(tmp_path, monkeypatch):
    from fwt.reproduce import run as reproducing

    monkeypatch.setattr(reproducing, "STORE_WAIT", 0.05)
    store = tmp_path / "results"
    store.mkdir(parents=True)
    with filelock.FileLock(store / ".lock"):
        words = ("reproduce", str(store), "in use by another process")
        refused(2, words, "reproduce", "retrieval", "--page-only", "--out", tmp_path, "--quiet")
