"""`fwt bench` as a command: what a run tells and writes, memory, growth, loop, pictures, tables."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from fwt.bench import growth, loop, population, roofline, suite, timing
from fwt.bench.shapes import Shape
from fwt.bench.subjects import SUBJECTS
from fwt.fwcore.errors import CheckFailed
from tests.bench_cases import CEILINGS, NUMBERS, QUICK, TINY, TRAINING, options, quiet, side_of
from tests.cli_tools import Done, clean_environment, good, refused
from tests.conftest import need


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


# --- the command --------------------------------------------------------------------------

TOP = {"environment", "settings", "tolerances", "ceilings", "rows", "growth", "loop", "population"}
PLACE = {
    "fwt", "commit", "python", "numpy", "platform", "processor", "argv", "started", "backend",
    "version", "device", "device_name", "threads", "treatment", "dtype", "precision",
}  # fmt: skip
ROW = {
    "measure", "batch", "steps", "size", "inner", "subject", "status", "reason", "memory", "chunk",
    "kernel", "step", "checked_at", "apart", *NUMBERS, "operations", "bytes", "floor_ms",
    "floor_by", "peak_how", "to_lstm", "naive_to",
}  # fmt: skip
TIMED = ("train", "forward", "stream")


def check_result(result: dict[str, Any], measures: tuple[str, ...]) -> None:
    assert result.keys() == TOP
    assert result["environment"].keys() >= PLACE
    assert all(number > 0 for number in result["ceilings"].values())
    assert result["tolerances"] == {"outputs": 2e-5, "gradients": 1e-4}
    rows = result["rows"]
    assert [(row["measure"], row["subject"]) for row in rows] == [
        (measure, name) for measure in measures for name in SUBJECTS
    ]
    for row in rows:
        assert row.keys() == ROW
        assert row["status"] == "ok", row
        assert row["apart"]
        same = {r["subject"]: r for r in rows if r["measure"] == row["measure"]}
        value = "peak_bytes" if row["measure"] == "memory" else "median_ms"
        assert row[value] > 0
        assert row["to_lstm"] == pytest.approx(row[value] / same["lstm"][value])
        assert row["naive_to"] == pytest.approx(same["naive"][value] / row[value])
        if row["measure"] in TIMED:
            assert row["n"] == 5
            assert row["q25_ms"] <= row["median_ms"] <= row["q75_ms"]
            assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["median_ms"])


@pytest.mark.parametrize("training", TRAINING)
def test_a_real_run_tells_all_that_it_promises(training, tmp_path, eager):
    need(training)
    measures = ("train", "forward", "stream") if training == "torch" else suite.MEASURES
    flags = [word for name in measures for word in ("--measure", name)]
    out = tmp_path / "deep" / "bench.json"
    done = good("bench", *QUICK, *flags, "--backend", training, "--json", "--out", out)
    check_result(done.json, tuple(m for m in (*TIMED[:2], "memory", "stream") if m in measures))
    assert json.loads(out.read_text()) == done.json
    assert done.json["environment"]["backend"] == training
    forms = {r["subject"]: r["memory"] for r in done.json["rows"] if r["measure"] == "train"}
    assert {name: forms[name] for name in ("matrix", "attention", "chunked", "lstm")} == {
        "matrix": "matrix", "attention": "attention", "chunked": "chunked", "lstm": "none"
    }  # fmt: skip


def test_peak_memory_is_that_of_a_step_in_a_fresh_process():
    """The matrix form keeps a matrix of every step and sequence."""
    need("torch")
    names = ("--subject", "matrix", "--measure", "memory")
    shape = ("--shape", "64,20,32,1", "--rounds", 5, "--seconds", 2, "--quiet")
    done = good("bench", *shape, *names, "--backend", "torch", "--json")
    (matrix,) = done.json["rows"]
    matrices = 64 * 20 * 32 * 32 * 4
    assert matrices < matrix["peak_bytes"] < 3 * matrices
    assert "fresh process" in matrix["peak_how"]


def test_peak_memory_on_mlx_is_that_of_the_subject_alone(eager):
    need("mlx")
    import mlx.core as mx

    other = mx.zeros(2**24)  # 64 MiB that are alive before
    mx.eval(other)
    shape = Shape(64, 20, 32, 1)
    found = suite.rows_of(
        side_of("mlx"), shape, options("memory", names=("naive", "lstm")), CEILINGS, quiet
    )
    matrices, data = 64 * 20 * 32 * 32 * 4, 64 * 20 * 32 * 4
    naive, lstm = (row["peak_bytes"] for row in found)
    assert matrices < naive < 6 * matrices
    assert data < lstm < 4 * matrices
    assert naive + matrices < other.nbytes


def test_growth_is_an_exponent():
    assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert growth.exponent([10, 1000], [5, 500]) == pytest.approx(1)
    assert growth.exponent([7], [1]) is None
    rows = [
        {"subject": "auto", "measure": "train", "steps": t, "median_ms": t**1.5} for t in (1, 4, 9)
    ]
    rows.append({"subject": "auto", "measure": "train", "steps": 16, "median_ms": None})
    found = growth.fits(rows)
    assert found[0]["exponent"] == pytest.approx(1.5)
    assert found[0]["steps"] == [1, 4, 9]
    assert found[1] == {"subject": "auto", "measure": "memory", "exponent": None, "steps": []}


def test_growth_measures_ours_and_the_lstm_at_every_length(eager):
    need("mlx")
    shapes = [TINY, TINY._replace(steps=12)]
    found = growth.growth(side_of("mlx"), options("train"), CEILINGS, quiet, shapes)
    assert len(found["rows"]) == 2 * 2 * 2
    assert {row["status"] for row in found["rows"]} == {"ok"}
    fits = {(fit["subject"], fit["measure"]): fit for fit in found["fits"]}
    assert fits.keys() == {(s, m) for s in ("auto", "lstm") for m in ("train", "memory")}
    peaks = [
        row["peak_bytes"]
        for row in found["rows"]
        if (row["subject"], row["measure"]) == ("lstm", "memory")
    ]
    want = np.log(peaks[1] / peaks[0]) / np.log(4)
    assert fits["lstm", "memory"]["exponent"] == pytest.approx(want)


def test_growth_and_loop_are_told_without_a_grid(tmp_path, monkeypatch, eager):
    need("mlx")
    monkeypatch.setattr(growth, "LENGTHS", (TINY, TINY._replace(steps=6)))
    monkeypatch.setattr(loop, "Extent", partial(loop.Extent, 1, 1, 2, 256))
    monkeypatch.setattr(population, "Extent", partial(population.Extent, 2, 1, 256))
    extras = ("--growth", "--loop", "--population")
    arguments = ("--no-grid", *extras, "--backend", "mlx", *QUICK[2:])
    out = tmp_path / "b.json"
    shown = good("bench", *arguments, "--out", out).out
    result = json.loads(out.read_text())
    assert result["rows"] == []
    assert [row["steps"] for row in result["growth"]["rows"]] == [3] * 4 + [6] * 4
    assert result["loop"]["n"] == 1
    assert "lstm memory grows as T^" in shown
    assert "training loop" in shown
    assert result["population"]["members"] == 2
    assert "2 models at once" in shown


@pytest.mark.parametrize("training", TRAINING)
def test_the_loop_is_set_against_the_bare_step(training, eager):
    found = loop.loop(side_of(training), loop.Extent(rounds=2, lines=2, updates=2, examples=256))
    assert found["n"] == 4
    rates = found["loop_examples_per_s"], found["bare_examples_per_s"]
    assert found["ratio"] == pytest.approx(rates[0] / rates[1])
    assert min(rates) > 0


@pytest.mark.parametrize("training", TRAINING)
def test_a_population_is_set_against_its_models_one_after_another(training, eager):
    extent = population.Extent(members=3, rounds=2, examples=256)
    found = population.population(side_of(training), extent)
    medians = {name: one["median_ms"] for name, one in found["times"].items()}
    assert found["to_in_turn"] == pytest.approx(medians["together"] / medians["in turn"])
    assert found["to_one"] == pytest.approx(medians["together"] / medians["one"])
    assert {one["n"] for one in found["times"].values()} == {2}


def test_a_population_that_learns_something_else_gets_no_number(monkeypatch, eager):
    right = population._alone
    monkeypatch.setattr(
        population,
        "_alone",
        lambda side, spec, first, *rest: right(
            side, spec, {name: array + 0.1 for name, array in first.items()}, *rest
        ),
    )
    extent = population.Extent(members=2, rounds=1, examples=256)
    with pytest.raises(CheckFailed, match="losses of update 0 differ"):
        population.population(side_of("torch"), extent)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, ["--subject", "'chunky'", "mean 'chunked'"], ("--subject", "chunky")),
        (2, ["--measure", "'trian'", "mean 'train'"], ("--measure", "trian")),
        (2, ["--shape", "B,T,R,S", "'1,2'"], ("--shape", "1,2")),
        (2, ["--no-grid", "--shape"], ("--no-grid", "--shape", "1,1,1,1")),
        (2, ["--threads", "threads=2"], ("--backend", "mlx", "--threads", 2)),
        (2, ["--rounds"], ("--rounds", 4)),
        (3, ["numpy", "cannot train"], ("--backend", "numpy")),
        (3, ["no device 'mars'"], ("--backend", "torch", "--device", "mars")),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(code, words, arguments):
    if "mlx" in arguments:
        need("mlx")
    refused(code, words, "bench", *arguments)


# --- pictures and tables ------------------------------------------------------------------


def rows_for(*points: tuple[Shape, str, float]) -> list[dict[str, Any]]:
    ceilings = roofline.Ceilings(1e9, 1e9)
    rows = []
    for shape, name, ms in points:
        one = suite.Contender(name, first={"train": ms / 1e3}, facts={"memory": "matrix"})
        told = {name: timing.summary([ms / 1e3] * 5)}
        rows.append(suite._row(one, "train", shape, told, ceilings))
    return rows


def test_pictures_hold_rows_that_differ_in_one_size(tmp_path):
    from fwt.bench import plots

    base = Shape(128, 11, 50, 1)
    rows = rows_for(
        (base._replace(steps=24), "auto", 7.0),
        (base, "auto", 3.0),
        (base, "auto", 3.5),
        (base, "lstm", 4.0),
        (base._replace(size=20), "lstm", 2.0),
        (Shape(1, 2, 3, 1), "naive", 1.0),
    )
    along_t, along_r = plots.series(rows, "steps"), plots.series(rows, "size")
    assert list(along_t) == [(128, 50, 1)]
    assert [row["median_ms"] for row in along_t[128, 50, 1]["auto"]] == pytest.approx([3, 7])
    assert list(along_r) == [(128, 11, 1)]
    assert [row["size"] for row in along_r[128, 11, 1]["lstm"]] == [20, 50]
    place = {"backend": "torch", "version": "1", "device": "cuda:0", "device_name": "card"}
    result = {"environment": place, "rows": rows, "growth": None}
    written = plots.plot(result, tmp_path / "new")
    assert [path.name for path in written] == [
        "cost-vs-t-torch-cuda0.png", "cost-vs-r-torch-cuda0.png"
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert plots.plot({**result, "rows": rows[:1]}, tmp_path / "none") == []


def test_a_table_row_shows_the_numbers_of_its_row():
    from fwt.bench import show

    row = suite.compared(rows_for((TINY, "lstm", 4.0), (TINY, "naive", 12.0)))[0]
    assert show.cells(row)[:5] == ["4", "0", "5", "1", "3"]
    assert [show.percent(n) for n in (None, 0.0123, 0.5, 1.25)] == ["", "1.2%", "50%", "125%"]
    assert show.form_of({"memory": "fused", "kernel": "numba"}) == "fused (numba)"
    assert show.form_of(row) == "matrix"
    assert show.form_of({"memory": "attention", "kernel": "none"}) == "attention"
    bad = suite._row(suite.Contender("gru", "not run", "why"), "train", TINY, {}, CEILINGS)
    assert show.reasons([row, bad, bad]) == ["gru at 2,3,4,1 not run: why"]


def test_help_of_bench_names_all_subjects_and_measures():
    done: Done = good("bench", "--help")
    for name in (*SUBJECTS, *suite.MEASURES):
        assert name in done.out
