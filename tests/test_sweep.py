"""`fwt sweep` on real Dask clusters: results, reuse, lost workers, searches, Ctrl-C."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fwt.execute.batch import work
from fwt.execute.cluster import Dask
from fwt.execute.executor import Cluster
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.training.group import Hooks
from fwt.jobs import Job, Outcome
from tests.cli_tools import (
    ROOT,
    TINY_BASE,
    Done,
    clean_environment,
    environment,
    fwt,
    good,
    refused,
    snapshot,
)
from tests.conftest import need

# 256 training strings in batches of 32: 8 updates an epoch
BASE = f"""{TINY_BASE}
dropout = 0.1
log_every = 1
steps = 6
eval_every = 3
"""
LONGER = BASE.replace("steps = 6\neval_every = 3", "steps = 12\neval_every = 4\nsave_every = 3")
GRID = '[axes]\nmodel = ["lstm", "irnn"]\nlr = [1e-3, 1e-2]\n'
SEARCH = """
[axes]
seed = "0-1"
[search]
trials = 4
batch = 2
seed = 5
[search.space]
lr = { low = 1e-4, high = 1e-1, log = true }
"train.beta2" = [0.98, 0.999]
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(scope="module", name="scheduler")
def _scheduler(tmp_path_factory) -> Iterator[str]:
    """A scheduler and a worker that exist already, as processes of their own."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    begun = {"cwd": ROOT, "env": environment(MLX_DISABLE_COMPILE="1"), "stderr": subprocess.DEVNULL}
    words = [*dask, "scheduler", *common, "--host", "127.0.0.1", "--port", "0"]
    processes = [subprocess.Popen(words, **begun)]
    try:
        while not (file.exists() and file.read_text()):  # it is made, then written
            assert processes[0].poll() is None
            time.sleep(0.05)
        words = [*dask, "worker", *common, "--nthreads", "1", "--no-nanny"]
        processes.append(subprocess.Popen([*words, "--local-directory", str(folder)], **begun))
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait(timeout=60)


def sweep_file(folder: Path, text: str, backend: str = "torch", name: str = "tiny") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\ntask = "retrieval"\nbackend = "{backend}"\n{text}')
    return path


def sweep(scheduler: str, file: Path, runs: Path, *more: object) -> Any:
    return good("sweep", file, "--scheduler", scheduler, "--runs-dir", runs, "--json", *more).json


def done(run: Path) -> dict[str, Any]:
    """The result of a run without what depends on the clock."""
    return {k: v for k, v in json.loads((run / "DONE").read_text()).items() if k != "train_s"}


def weights(run: Path) -> dict[str, bytes]:
    """The weights and moments of all checkpoints of a run."""
    return {k: v for k, v in snapshot(run).items() if k.endswith(".safetensors")}


# --- a grid -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_grid_gives_what_lone_runs_give(name, scheduler, tmp_path, eager):
    need(name)
    runs, lone = tmp_path / "runs", tmp_path / "lone"
    found = sweep(scheduler, sweep_file(tmp_path, BASE + GRID, name), runs)
    assert [(each["label"], each["tried"]) for each in found["groups"]] == [
        ("lstm R=4", 2),
        ("irnn R=4", 2),
    ]
    for group in found["groups"]:
        for trial in group["trials"]:
            (run,) = trial["runs"]
            words = found_command(group, trial)
            good("train", *words, "--runs-dir", lone, "--quiet")
            assert done(runs / run["run"]) == done(lone / run["run"])
            assert weights(runs / run["run"]) == weights(lone / run["run"])
            val = done(lone / run["run"])["val"]
            assert (run["val_error_pct"], run["val_loss"]) == (val["error_pct"], val["loss"])
            assert trial["val_error_pct"] == val["error_pct"]
        errors = [(each["val_error_pct"], each["val_loss"]) for each in group["trials"]]
        assert errors == sorted(errors)
        assert group["chosen"] == group["trials"][0]["settings"]
    assert json.loads((runs / "sweeps" / "tiny" / "summary.json").read_text()) == found


def found_command(group: dict[str, Any], trial: dict[str, Any]) -> list[str]:
    """The words of the command that the sweep prints for its choice, for any of its settings."""
    words = group["command"].split()
    assert words[:2] == ["fwt", "train"]
    return [*words[2 : words.index("--lr")], "--lr", str(trial["settings"]["lr"])]


@pytest.fixture(scope="module", name="grid")
def _grid(scheduler, tmp_path_factory) -> tuple[Path, Path]:
    """A grid that has run: its file and its runs."""
    need("torch")
    folder = tmp_path_factory.mktemp("grid")
    file = sweep_file(folder, BASE + GRID)
    sweep(scheduler, file, folder / "runs", "--device", "cpu")
    return file, folder / "runs"


def test_the_same_command_runs_nothing_and_finds_the_same(grid):
    file, runs = grid
    before = snapshot(runs)
    again = fwt("sweep", file, "--runs-dir", runs, "--scheduler", "tcp://127.0.0.1:1")
    assert again.code == 0, again  # nobody is at that address
    assert snapshot(runs) == before
    assert "runs      4, 4 of them ended before" in again.err
    assert again.err.count("reused ") == 4
    errors = [line.split()[2] for line in again.out.splitlines() if "val error" in line]
    summary = json.loads((runs / "sweeps" / "tiny" / "summary.json").read_text())
    trials = [trial for group in summary["groups"] for trial in group["trials"]]
    assert errors == [f"{trial['val_error_pct']:.2f}%" for trial in trials]


def test_a_grid_may_grow_and_reuses_what_it_has(grid, scheduler, tmp_path):
    runs = Path(shutil.copytree(grid[1], tmp_path / "runs"))
    more = sweep_file(tmp_path, BASE + GRID.replace("1e-2]", "1e-2, 1e-4]"))
    asked = good("sweep", more, "--runs-dir", runs, "--dry-run", "--json").json
    assert (asked["runs"], asked["done"]) == (6, 4)
    times = {path: path.stat().st_mtime_ns for path in runs.glob("retrieval/*/DONE")}
    found = sweep(scheduler, more, runs)
    assert [group["tried"] for group in found["groups"]] == [3, 3]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_test_split_has_no_part_in_the_choice(grid, tmp_path):
    """Results whose test numbers are the opposite, or gone, or nonsense, give the same."""
    file, runs = grid
    command = ("sweep", file, "--runs-dir", runs, "--quiet")
    want, kept = good(*command), {}
    for number, path in enumerate(sorted(runs.glob("retrieval/*/DONE"))):
        kept[path] = path.read_text()
        result = json.loads(kept[path])
        result["test"] = ({"error_pct": 100 - result["val"]["error_pct"]}, "?", None)[number % 3]
        path.write_text(json.dumps(result))
    assert good(*command) == want
    assert '"test' not in (runs / "sweeps" / "tiny" / "summary.json").read_text()
    for path, text in kept.items():
        path.write_text(text)
    val = json.loads(text)["val"]
    path.write_text(json.dumps({**json.loads(text), "val": {**val, "error_pct": -1.0}}))
    assert good(*command).out != want.out  # and the validation split has
    path.write_text(text)


def test_a_folder_with_another_run_is_refused(grid, tmp_path):
    _, runs = grid
    other = sweep_file(tmp_path, BASE.replace("eval_every = 3", "eval_every = 2") + GRID)
    before = snapshot(runs)
    refused(2, ["it has report.eval_every=3", "--runs-dir"], "sweep", other, "--runs-dir", runs)
    assert snapshot(runs) == before
    other = sweep_file(tmp_path, BASE.replace("dropout = 0.1", "dropout = 0.2") + GRID)
    words = ["of another sweep", "base.train.dropout=0.1", "another name"]
    refused(2, words, "sweep", other, "--runs-dir", runs, "--quiet")
    assert snapshot(runs) == before


def test_a_run_that_diverges_is_a_result(scheduler, tmp_path):
    need("torch")
    text = BASE + 'model = "irnn"\n' + "[axes]\nlr = [1e-3, 1e30]\n"
    file, runs = sweep_file(tmp_path, text), tmp_path / "runs"
    (group,) = sweep(scheduler, file, runs)["groups"]
    first, second = group["trials"]
    assert group["chosen"] == first["settings"] == {"lr": 1e-3}
    assert second["val_error_pct"] is None
    assert second["runs"][0]["failure"].startswith("DivergedError (exit 5): train: expected finite")
    before = snapshot(runs)
    assert good("sweep", file, "--runs-dir", runs, "--quiet").out.count("failed: 1 of 1 runs") == 1
    assert snapshot(runs) == before  # it would diverge again
    file = sweep_file(tmp_path, text.replace("1e-3, ", ""), name="lost")
    done = fwt("sweep", file, "--runs-dir", runs, "--quiet", "--json")
    assert (done.code, done.json["groups"][0]["chosen"]) == (5, None)


def test_a_run_that_fails_does_not_end_the_others(scheduler, tmp_path):
    need("torch")
    file, runs = sweep_file(tmp_path, BASE + GRID), tmp_path / "runs"
    asked = good("sweep", file, "--runs-dir", runs, "--dry-run", "--json").json
    assert asked["runs"] == 4
    run = runs / "retrieval" / folder_of(asked["specs"][0], "lstm")
    run.mkdir(parents=True)
    (run / "mine.txt").write_text("not a run")
    done = fwt("sweep", file, "--runs-dir", runs, "--scheduler", scheduler, "--json", "--quiet")
    assert done.code == 1
    (line,) = done.errors
    assert "1 of 4 runs failed" in line
    assert f"{run} exists" in line
    assert sum("val_error_pct" in r for g in done.json["groups"] for t in g["trials"]
               for r in t["runs"]) == 3  # fmt: skip
    (run / "mine.txt").unlink()
    assert sweep(scheduler, file, runs)["groups"][0]["chosen"] is not None


def folder_of(spec: dict[str, Any], model: str) -> str:
    run = RunSpec.parse(spec, "spec")
    return f"{model}-R4-{run.run_digest()}-s0-torch"


def test_seeds_are_trained_as_one_program_where_asked(scheduler, tmp_path):
    need("torch")
    axes = '[axes]\nseed = "0-2"\nlr = [1e-3, 1e-2]\n'
    text = BASE + 'model = "lstm"\n' + axes
    alone = sweep(scheduler, sweep_file(tmp_path, text), tmp_path / "alone")
    file = sweep_file(tmp_path, "population = true\n" + text, name="many")
    # a process that died while it saved: one run is behind the others
    words = alone["groups"][0]["command"].split()[2:]
    many = tmp_path / "many"
    good("train", *words, "--runs-dir", many, "--seed", 1, "--stop-after", 3, "--quiet")
    found = sweep(scheduler, file, many)
    pairs = zip(alone["groups"][0]["trials"], found["groups"][0]["trials"], strict=True)
    for one, other in pairs:
        assert one["settings"] == other["settings"]
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)
        assert [run["seed"] for run in other["runs"]] == [0, 1, 2]
    sizes = [
        json.loads((path / "run.json").read_text())["sessions"][-1].get("members")
        for path in sorted((many / "retrieval").iterdir())
    ]
    assert sorted(sizes, key=str) == [5, 5, 5, 5, 5, None]


# --- a search -----------------------------------------------------------------------------


def values_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial["settings"] for trial in summary["groups"][0]["trials"]]


def test_a_search_draws_the_same_in_one_go_and_in_two(scheduler, tmp_path):
    need("torch")
    file, runs = sweep_file(tmp_path, BASE + SEARCH), tmp_path / "runs"
    whole = sweep(scheduler, file, runs)
    trials = whole["groups"][0]["trials"]
    assert len(trials) == 4
    assert all(1e-4 <= each["settings"]["lr"] <= 1e-1 for each in trials)
    assert len({each["settings"]["lr"] for each in trials}) == 4
    for trial in trials:
        errors = [run["val_error_pct"] for run in trial["runs"]]
        assert trial["val_error_pct"] == pytest.approx(sum(errors) / 2)
    short = sweep_file(tmp_path, BASE + SEARCH.replace("trials = 4", "trials = 2"))
    parts = tmp_path / "parts"
    first = sweep(scheduler, short, parts)
    assert len(values_of(first)) == 2
    sweep_file(tmp_path, BASE + SEARCH)
    second = sweep(scheduler, file, parts)
    assert without_times(whole) == without_times(second)
    before = snapshot(parts)
    assert good("sweep", file, "--runs-dir", parts, "--quiet", "--json").json == second
    assert {k: v for k, v in snapshot(parts).items() if "study" not in k} == {
        k: v for k, v in before.items() if "study" not in k
    }
    other = sweep_file(tmp_path, BASE + SEARCH.replace("seed = 5", "seed = 6"))
    refused(2, ["another sweep", "seed"], "sweep", other, "--runs-dir", parts, "--quiet")


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    summary = copy.deepcopy(summary)
    for group in summary["groups"]:
        for trial in group["trials"]:
            for run in trial["runs"]:
                run.pop("train_s")
    return summary


# --- workers that die, and Ctrl-C ---------------------------------------------------------


def killed_once(jobs: Sequence[Job], hooks: Hooks) -> list[Outcome]:
    """The real work in a process that is killed at update 8, the first time."""
    (job,) = jobs
    marker = job.folder.parent / "killed"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal sends them to all
        assert signal.getsignal(number) is signal.SIG_IGN

    def kill(line: dict[str, Any]) -> None:
        hooks.on_metrics(line)
        if line["step"] == 8 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return work(jobs, Hooks(on_metrics=kill, stop_signal=hooks.stop_signal))


class Recorder:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.where: list[str] = []
        self.steps: list[int] = []
        self.outcomes: list[Outcome] = []

    def opened(self, text: str) -> None:
        self.where.append(text)

    def report(self, jobs: Sequence[Job], line: dict[str, Any]) -> None:
        assert line["split"] in ("", "train", "val")
        self.steps += [line["step"]] if line["split"] != "val" else []

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def stop(self) -> None:
        return None


def run_on_dask(job: Job, watch: Any) -> list[Outcome]:
    with Dask(Cluster(None, 1, 1, 2, 1.0), 1, watch, killed_once) as executor:
        executor.submit([[job]])
        return list(executor.outcomes())


def test_a_killed_worker_costs_what_it_had_not_saved(tmp_path, eager, monkeypatch):
    need("mlx")  # begins in a fraction of PyTorch's time; `test_cli_signals` has both
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    file = sweep_file(tmp_path, LONGER + 'model = "lstm"\n', "mlx")
    (spec,) = good("sweep", file, "--dry-run", "--json").json["specs"]
    lone = tmp_path / "lone"
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    words = ("train", "--config", tmp_path / "spec.json", "--backend", "mlx", "--quiet")
    good(*words, "--out", lone)
    run = tmp_path / "run"
    job = Job(RunSpec.parse(spec, "spec"), "mlx", run, "cpu")
    watch = Recorder()
    (outcome,) = run_on_dask(job, watch)
    assert outcome.failure is None
    assert (outcome.attempts, outcome.reused) == (2, False)
    assert outcome.result == json.loads((run / "DONE").read_text())
    assert done(run) == done(lone)
    assert weights(run) == weights(lone)
    again = watch.steps.index(0, 1)
    # in order and without a gap; what was on its way when the process was killed is lost
    assert watch.steps[:again] == [*range(again)]
    assert again <= 9
    assert watch.steps[again:] == [0, *range(7, 13)]  # the last save was that of 6
    assert "dashboard http://127.0.0.1:" in watch.where[0]
    assert watch.outcomes == [outcome]
    (same,) = run_on_dask(job, watch)
    assert (same.result, same.attempts, same.reused) == (outcome.result, 0, True)


def test_ctrl_c_saves_what_runs_and_the_same_command_goes_on(scheduler, tmp_path):
    need("mlx")
    steps = 400
    text = BASE.replace("steps = 6\neval_every = 3", f"steps = {steps}\neval_every = {steps}")
    file = sweep_file(tmp_path, text + 'model = "irnn"\n[axes]\nseed = "0-1"\n', "mlx")
    runs = tmp_path / "runs"
    command = ("sweep", file, "--runs-dir", runs)
    process = subprocess.Popen(
        [sys.executable, "-m", "fwt.cli.main", *map(str, command), "--workers", "1"],
        cwd=ROOT,
        env=environment(MLX_DISABLE_COMPILE="1"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 60
    while not list(runs.glob("retrieval/*/metrics.jsonl")):
        assert time.monotonic() < limit
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    out, err = process.communicate(timeout=60)
    ended = Done(process.returncode, out, err)
    assert ended.code == 130, ended
    assert ended.out == ""
    assert ended.err.splitlines()[-1] == (
        "stopped by signal 2; what ran was saved; the same command goes on"
    )
    (run,) = runs.glob("retrieval/*")
    step = int((run / "last").read_text().strip().removeprefix("step-"))
    assert 0 < step < steps
    sweep(scheduler, file, runs)
    found = [json.loads(path.read_text())["sessions"] for path in runs.glob("retrieval/*/run.json")]
    ends = sorted([each["exit"].partition(":")[0] for each in sessions] for sessions in found)
    assert ends == [["Interrupted (exit 130)", "done"], ["done"]]
