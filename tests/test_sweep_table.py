"""What a person sees while a sweep goes on: lines, or a table on a terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from fwt.execute.progress import Progress
from fwt.fwcore.spec import RunSpec
from fwt.jobs import Failure, Job, Outcome
from tests.cli_tools import TINY, clean_environment, good

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
DONE = {"val": {"error_pct": 12.5}, "steps": 6, "test": {"error_pct": 77.0}}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="module", name="jobs")
def _jobs() -> list[Job]:
    spec = RunSpec.parse(good("train", *TINY, "--dry-run").json, "spec")
    return [Job(spec, "torch", Path(f"run{n}"), "cpu", label=f"<run{n}>") for n in range(4)]


def shown(jobs: list[Job], quiet: bool = False) -> None:
    """A sweep of four runs: one there already, one done, one lost once, one that diverged."""
    with Progress(4, lambda: None, quiet) as watch:
        watch.opened("tcp://here, 1 workers; dashboard http://there")
        watch.ended(Outcome(jobs[0], DONE, attempts=0))
        for number in (1, 2, 2, 3):
            watch.report([jobs[number]], {"split": "", "step": 0})
        watch.report([jobs[2]], {"split": "val", "step": 4, "error_pct": 33.0})
        watch.ended(Outcome(jobs[1], DONE))
        watch.ended(Outcome(jobs[3], failure=Failure.read("DivergedError (exit 5): so")))


def test_without_a_terminal_each_event_is_a_line(jobs, capsys):
    shown(jobs)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "scheduler tcp://here, 1 workers; dashboard http://there",
        "reused       1/4  <run0>  val error 12.50%",
        "begun     <run1>",
        "begun     <run2>",
        "begun     <run2>, attempt 2",
        "begun     <run3>",
        "done         2/4  <run1>  val error 12.50%",
        "failed       3/4  <run3>  DivergedError (exit 5): so",
    ]
    shown(jobs, quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("setting", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_that_are_forced_make_no_terminal(setting, jobs, capsys, monkeypatch):
    monkeypatch.setenv(setting, "1")
    shown(jobs)
    assert "\x1b" not in capsys.readouterr().err


def test_a_terminal_gets_a_table(jobs, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown(jobs)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.rstrip() for line in CONTROL.sub("", err).splitlines()]
    assert "scheduler tcp://here, 1 workers; dashboard http://there" in lines
    assert "begun     <run2>, attempt 2" in lines
    start = max(number for number, line in enumerate(lines) if line.startswith("run "))
    assert lines[-1] == "3 of 4 runs ended, 1 of them before; 1 failed, 1 running, 0 waiting"
    assert [line.split() for line in lines[start:-1]] == [
        ["run", "state", "step", "val", "error", "time"],
        ["<run0>", "there", "already", "6", "12.50%"],
        ["<run1>", "done", "6", "12.50%"],
        ["<run3>", "failed", "0"],
        ["<run2>", "running", "4", "33.00%", "0", "s"],
    ]
    assert "77" not in err
