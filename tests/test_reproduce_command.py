"""`fwt reproduce`: the plan, runs that are stored as they end, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fwt.execute import batch
from fwt.execute.executor import Cluster
from fwt.fwcore.errors import Interrupted
from fwt.reproduce import cells, summary
from fwt.reproduce import run as reproducing
from tests.cli_tools import Done, fwt, good, refused
from tests.reproduce_tools import SHORT, here, places, tiny_cells


@pytest.fixture(name="tiny")
def _tiny(monkeypatch):
    yield from tiny_cells(monkeypatch)


def states(done: Done) -> list[tuple[str, int, int, str]]:
    return [(run["model"], run["size"], run["seed"], run["state"]) for run in done.json["runs"]]


def test_the_plan_names_every_run_and_whether_it_is_there(tmp_path):
    plan = good("reproduce", "retrieval", *places(tmp_path), "--dry-run", "--json")
    on_torch = [run for run in plan.json["runs"] if run["backend"] == "torch"]
    assert len(on_torch) == 12 * 3
    assert len(plan.json["runs"]) - len(on_torch) == 2
    assert {run["state"] for run in on_torch} == {"to run"}
    first = on_torch[0]
    folder = f"irnn-R20-{first['digest']}-s0-torch"
    assert Path(first["run"]) == tmp_path / "runs" / "retrieval" / folder
    shown = good("reproduce", "retrieval", *places(tmp_path), "--dry-run").out
    assert f"irnn R=20           torch  {first['digest']}  s0 to run, s1 to run" in shown
    assert not list(tmp_path.iterdir())


def test_the_plan_can_be_narrowed(tmp_path):
    arguments = ("--model", "lstm", "--model", "irnn", "--size", 50, "--seeds", "3,5")
    plan = here(tmp_path, *arguments, "--dry-run", "--json")
    assert plan.code == 0, plan
    wanted = [(model, size, seed) for size in (20, 50) for model in ("irnn", "lstm")
              for seed in (3, 5)]  # fmt: skip
    assert [found[:3] for found in states(plan)] == wanted
    groups = ("--group", "control", "--group", "table", "--size", 50)
    plan = good("reproduce", "retrieval", *groups, *places(tmp_path), "--dry-run", "--json")
    of = [(run["group"], run["model"]) for run in plan.json["runs"] if run["backend"] == "torch"]
    assert (
        of
        == [("control", "irnn")] * 3
        + [("control", "fast-weights")] * 6
        + [("table", "lstm")] * 3
        + [("table", "alstm")] * 3
    )  # what both groups need is run once


def test_a_cell_is_run_stored_and_not_run_again(tiny, tmp_path):
    done = here(tmp_path, "--model", "irnn", "--seeds", "0-1", "--json")
    assert done.code == 0, done
    (cell,) = done.json["cells"]
    stored = summary.load(tmp_path / "out" / "results" / "retrieval.json")
    assert [record.seed for record in stored] == [0, 1]
    assert cell["seeds"] == {str(record.seed): record.test_error_pct for record in stored}
    assert cell["mean"] == pytest.approx(sum(cell["seeds"].values()) / 2)
    assert cell["published"] == {"P": 62.11, "W": 71.2}
    for record in stored:
        (folder,) = (tmp_path / "runs").glob(f"retrieval/irnn-R20-*-s{record.seed}-torch")
        kept = json.loads((folder / "DONE").read_text())
        assert kept["test"]["error_pct"] == record.test_error_pct
        assert record.steps == 4
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert f"| irnn | 20 | 62.11 | 71.20 | {cell['mean']:.2f} ± {cell['sd']:.2f} (2) |" in page
    again = here(tmp_path, "--model", "irnn", "--seeds", "0-2")
    assert again.code == 0
    assert "s0 stored, s1 stored, s2 to run" in again.err
    assert again.err.count("begun") == 1


def test_on_a_gpu_the_seeds_of_a_cell_are_one_program(tiny, tmp_path, monkeypatch):
    alone = here(tmp_path / "alone", "--model", "irnn", "--json").json["cells"]
    monkeypatch.setattr(reproducing.Reproduction, "on_gpu", True)
    done = here(tmp_path, "--model", "irnn", "--json")
    assert done.err.count("begun") == 1
    assert "irnn R=20 s0 torch and 2 more" in done.err
    assert done.json["cells"] == alone


def test_a_finished_run_is_taken_from_its_folder(tiny, tmp_path):
    assert here(tmp_path, "--model", "irnn", "--seeds", "0").code == 0
    store = tmp_path / "out" / "results" / "retrieval.json"
    before = store.read_bytes()
    store.unlink()
    again = here(tmp_path, "--model", "irnn", "--seeds", "0")
    assert again.code == 0
    assert "s0 done" in again.err
    assert "begun" not in again.err
    assert store.read_bytes() == before


def test_what_had_ended_is_stored_when_a_signal_comes(tiny, tmp_path, monkeypatch):
    real = batch.work

    def work(jobs, hooks):
        if jobs[0].spec.train.seed == 1:
            raise Interrupted("stopped by signal 15", 15)
        return real(jobs, hooks)

    monkeypatch.setattr(batch, "work", work)
    done = here(tmp_path, "--model", "irnn")
    assert done.code == 143
    out = tmp_path / "out"
    stored = summary.load(out / "results" / "retrieval.json")
    assert [record.seed for record in stored] == [0]
    assert f"s0 {stored[0].test_error_pct:.2f} |" in (out / "RESULTS.md").read_text()


def test_the_cluster_is_asked_for_as_in_a_sweep(tiny, tmp_path, monkeypatch):
    asked = []

    def dask(cluster, workers, watch, work):
        asked.append((cluster, workers))
        raise Interrupted("stopped by signal 2", 2)

    monkeypatch.setattr("fwt.execute.cluster.Dask", dask)
    own = ("--workers", 2, "--retries", 5, "--reconnect", 7)
    assert here(tmp_path, *own).code == 130
    assert here(tmp_path, "--scheduler", "tcp://x:1", "--workers", 2).code == 130
    assert asked == [
        (Cluster(None, 2, 1, retries=5, reconnect=7.0), 2),
        (Cluster("tcp://x:1", 2, 1, retries=3, reconnect=60.0), 2),
    ]


def test_a_run_that_diverges_is_stored_and_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(cells.DATA, "retrieval", {**SHORT, "train.lr": 1e30, "train.clip": 0})
    done = here(tmp_path, "--model", "irnn", "--seeds", "0")
    assert done.code == 5, done
    assert "1 of 1 runs failed" in done.err
    (record,) = summary.load(tmp_path / "out" / "results" / "retrieval.json")
    assert record.test_error_pct is None
    assert "DivergedError" in record.failure
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| irnn | 20 | 62.11 | 71.20 | diverged | s0 diverged |" in page


def test_quick_runs_every_model_and_leaves_the_page_alone(tiny, tmp_path):
    done = good("reproduce", "retrieval", "--quick", "--workers", 1, *places(tmp_path))
    shown = [line.split()[0] for line in done.out.splitlines() if " R=50 " in line]
    assert shown == list(cells.PUBLISHED["retrieval"]["P"])
    assert "Ours, best first: " in done.out
    assert not (tmp_path / "out").exists()
    stored = summary.load(tmp_path / "runs/quick/results/retrieval.json")
    assert len(stored) == len(shown)


def test_a_backend_that_is_not_there_is_left_out_or_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("fwt.backends.installed", lambda name: name != "mlx")
    arguments = ("reproduce", "retrieval", "--size", 20, "--model", "fast-weights", "--workers", 1)
    done = good(*arguments, *places(tmp_path))
    assert "backend   mlx is not installed: its cells are not run" in done.err
    assert "fast-weights R=20  mlx           1.81  not run" in done.out
    asked = fwt(*arguments, *places(tmp_path), "--backend", "mlx")
    assert asked.code == 3
    assert asked.errors == ["error: backend mlx: not installed; see fwt doctor"]


def test_results_go_to_the_checkout_only_from_inside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(reproducing.ROOT / "tests")
    assert reproducing.results_root(None) == reproducing.ROOT
    monkeypatch.chdir(tmp_path)
    assert reproducing.results_root(None) == Path("reproduced")
    assert reproducing.results_root(Path("x")) == Path("x")


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, ["'retrieva'", "mean 'retrieval'"], ("retrieva",)),
        (2, ["--model", "'gru'", "known: alstm"], ("retrieval", "--model", "gru")),
        (2, ["--size", "30"], ("retrieval", "--size", 30)),
        (2, ["--backend", "'numpy'"], ("retrieval", "--backend", "numpy")),
        (2, ["--group", "'tabel'", "mean 'table'"], ("retrieval", "--group", "tabel")),
        (2, ["mnist-glimpse has no cells"], ("mnist-glimpse", "--group", "harder")),
        (2, ["--quick", "--group"], ("retrieval", "--quick", "--group", "table")),
        (2, ["--seeds", "'0-x'"], ("retrieval", "--seeds", "0-x")),
        (4, ["dataset", "mnist"], ("mnist-glimpse", "--model", "lstm", "--quiet")),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(code, words, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused(code, words, "reproduce", *arguments, *places(tmp_path))
