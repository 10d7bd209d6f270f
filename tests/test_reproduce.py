"""Cells against the papers' tables, stored runs, and the page that is made of both."""

from __future__ import annotations

import json
import shutil
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fwt.fwcore.errors import CheckpointError, ConfigError, FileError
from fwt.fwcore.storage.runs import RunFolder
from fwt.reproduce import cells, page, search, summary, tally
from fwt.reproduce.curves import figures
from fwt.reproduce.page import Chapter
from fwt.reproduce.run import ROOT, cells_of, chapters
from fwt.reproduce.summary import Record
from fwt.sweep.plan import NAMES
from tests.cli_tools import good

# Ba et al. 2016, tables 1 and 2, and Wayman & Mathew 2017
PRINTED = {
    "retrieval": {
        "irnn": {20: (62.11, 71.2), 50: (60.23, 64.6), 100: (0.34, 3.11)},
        "lstm": {20: (60.81, 53.3), 50: (1.85, 3.88), 100: (0.0, 1.02)},
        "alstm": {20: (60.13, None), 50: (1.62, None), 100: (0.0, None)},
        "fast-weights": {20: (1.81, 3.78), 50: (0.0, 0.0), 100: (0.0, 0.0)},
    },
    "mnist-glimpse": {
        "irnn": {50: (12.95, None), 100: (1.95, None), 200: (1.42, None)},
        "lstm": {50: (12.0, None), 100: (1.55, None), 200: (1.1, None)},
        "convnet": {50: (1.81, None), 100: (1.0, None), 200: (0.9, None)},
        "fast-weights": {50: (7.21, None), 100: (1.3, None), 200: (0.85, None)},
    },
}
SEARCH = {
    "format_version": 1, "name": "search-retrieval", "objective": "error", "budget": 2, "seeds": 1,
    "sampler": "random", "task": "retrieval", "backend": "torch", "control": None,
    "base": {"train.epochs": 8}, "search": {}, "groups": [
        {"label": "lstm R=20", "model": "lstm", "fixed": {"model": "lstm", "size": 20},
         "parameters": 9, "tried": 2, "chosen": {"lr": 0.0021234, "train.clip": 1.0},
         "command": None, "trials": [
             {"settings": {}, "val_error_pct": 40.5, "val_error_sd": None, "val_loss": 1.0,
              "runs": []},
             {"settings": {}, "val_error_pct": None, "val_error_sd": None, "val_loss": None,
              "runs": []}]},
        {"label": "irnn R=20", "model": "irnn", "fixed": {"model": "irnn", "size": 20},
         "parameters": 9, "tried": 2, "chosen": None, "command": None, "trials": []}],
}  # fmt: skip


def cell_of(model: str, size: int, backend: str = "torch", task: str = "retrieval") -> cells.Cell:
    table = cells_of(task).group("table")
    return next(c for c in table if (c.model, c.size, c.backend) == (model, size, backend))


def record(model: str, size: int, seed: int, error: float | None, **more: Any) -> Record:
    """A made-up run of a cell of the retrieval table."""
    backend = more.pop("backend", "torch")
    spec = cell_of(model, size, backend).seeded(seed)
    given = {
        "model": model,
        "backend": backend,
        "device": "cpu",
        "processor": "Z80",
        "dataset": "retrieval-k4",
        "spec": spec.json_data(),
        "parameters": 1234,
        "test_error_pct": error,
        "test_examples": 20_000,
        "val_error_pct": None if error is None else error + 0.5,
        "best_step": 700,
        "steps": 1000,
        "train_s": 90.0,
        "failure": "DivergedError: loss=nan" if error is None else None,
        "commit": "abc1234",
        "command": "fwt train",
        "versions": {"torch": "2.9", "python": "3.11"},
        "curve": [[100, 80.0], [200, 40.0 + seed]],
    }
    return Record.parse({**given, **more}, "test")


def chapter(*records: Record) -> Chapter:
    return Chapter("retrieval", cells_of("retrieval").every(), records, None)


def lines_of(*records: Record) -> list[str]:
    return page.page([chapter(*records)]).splitlines()


# --- which runs -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", PRINTED)
def test_the_cells_are_those_of_the_papers(task):
    on_torch = [c for c in cells_of(task).group("table") if c.backend == "torch"]
    wanted = {(model, size) for model, errors in PRINTED[task].items() for size in errors}
    assert {(c.model, c.size) for c in on_torch} == wanted
    assert len(on_torch) == len(wanted)
    assert {c.seeds for c in on_torch} == {(0, 1, 2)}
    known = cells.PUBLISHED[task]
    for model, errors in PRINTED[task].items():
        for size, (paper, repetition) in errors.items():
            assert known["P"][model][size] == paper
            assert known.get("W", {}).get(model, {}).get(size) == repetition


def test_on_mlx_a_named_few():
    every = [c for task in PRINTED for c in cells_of(task).every() if c.backend == "mlx"]
    named = {(c.task, c.model, c.size, c.seeds) for c in every if c.named}
    assert named == {
        ("retrieval", "fast-weights", 20, (0,)),
        ("retrieval", "fast-weights", 50, (0,)),
        ("mnist-glimpse", "fast-weights", 50, (0,)),
    }
    assert len(every) == 24  # all of both tables can be asked for


@pytest.mark.parametrize("model", ["irnn", "lstm", "fast-weights"])
@pytest.mark.parametrize(("task", "size"), [("retrieval", 50), ("mnist-glimpse", 100)])
def test_settings_are_those_that_train_takes_by_itself(task, size, model):
    asked = ("--task", task, "--model", model, "--size", size, "--seed", 2)
    data = ("--dataset", "mnist-subset") if task == "mnist-glimpse" else ()
    wanted = good("train", *asked, *data, "--dry-run").json
    found = cell_of(model, size, task=task).seeded(2).json_data()
    if data:
        assert found["task"].pop("dataset") == "mnist"
        del wanted["task"]["dataset"]
    assert found == wanted


def test_the_controls_differ_in_the_memory_alone():
    group = cells_of("retrieval").group("control")
    assert [c.model for c in group] == ["irnn", "fast-weights", "fast-weights"]
    plain, without, full = (c.seeded(0).json_data() for c in group)
    assert plain == cell_of("irnn", 50).seeded(0).json_data()
    assert full == cell_of("fast-weights", 50).seeded(0).json_data()
    assert without["model"]["core"].pop("inner_steps") == 0
    assert full["model"]["core"].pop("inner_steps") == 1
    assert without == full


def test_the_page_says_who_trains_on_more_than_the_data_as_they_are():
    digits = Chapter("mnist-glimpse", cells_of("mnist-glimpse").every(), [], None)
    moved = "each image moved by up to 1 px in each direction too, for every model."
    assert f"Training data: {moved}" in page.page([digits])
    strings = page.page([chapter()])
    for times, name in ((14, "irnn R=100"), (99, "lstm R=100"), (4, "alstm R=100")):
        text = f"each string {times} times more under other letters and digits, for {name}."
        assert strings.count(f"Training data: {text}") == 1
    assert strings.count("Training data") == 3


def test_harder_strings_are_longer_and_each_is_seen_as_often():
    group = cells_of("retrieval").group("harder")
    models = list(PRINTED["retrieval"])
    assert [(c.pairs, c.size, c.model) for c in group] == [
        (pairs, size, model) for pairs in (8, 16) for size in (50, 100) for model in models
    ]
    for cell in group:
        found, wanted = cell.seeded(0).json_data(), cell_of(cell.model, cell.size).seeded(0)
        assert (found["train"].pop("epochs"), found["train"].pop("batch_size")) == (20, 128)
        rest = wanted.json_data()
        del rest["train"]["epochs"], rest["train"]["batch_size"]
        assert found == {**rest, "task": {**rest["task"], "pairs": cell.pairs, "renamings": 0}}
    assert cells_of("mnist-glimpse").group("harder") == []


@pytest.mark.parametrize("task", PRINTED)
def test_quick_is_every_model_once_and_short(task):
    quick = cells_of(task).quick()
    assert [(c.model, c.size, c.seeds) for c in quick] == [(m, 50, (0,)) for m in PRINTED[task]]
    examples = {"retrieval": 100_000, "mnist-glimpse": 4_000}[task]
    updates = [c.seeded(0).train.total_steps(examples) for c in quick]
    assert sum(updates) <= 60_000  # at 15 ms each, 15 minutes of one core


def test_a_model_that_is_not_there_yet_is_a_row_that_cannot_be_run(monkeypatch):
    cells_of.cache_clear()
    known = cells.presets()
    monkeypatch.setattr(cells, "presets", lambda: {k: known[k] for k in known if k != "alstm"})
    try:
        group = [c for c in cells_of("retrieval").group("table") if c.model == "alstm"]
        assert {c.digest for c in group} == {None}
        with pytest.raises(ConfigError, match="'alstm' is not there"):
            group[0].seeded(0)
        shown = "| alstm | 20 | 60.13 | - | not run |"
        assert any(line.startswith(shown) for line in lines_of())
    finally:
        cells_of.cache_clear()


# --- what is kept of a run ------------------------------------------------------------------


def test_a_finished_run_is_kept(finished):
    kept = summary.of_folder(finished)
    done, spec = RunFolder(finished).read_json("DONE"), RunFolder(finished).read_spec()
    assert (kept.model, kept.backend, kept.device) == ("fast-weights", "torch", "cpu")
    assert kept.test_error_pct == done["test"]["error_pct"]
    assert kept.val_error_pct == done["val"]["error_pct"]
    assert (kept.steps, kept.best_step, kept.test_examples) == (6, done["best_step"], 64)
    assert kept.parameters == 37 * 100 + (16 + 400 + 8) + (400 + 100) + (1000 + 10)
    assert kept.key == ("torch", spec.run_digest(), 0)
    first = (RunFolder(finished).read_json("run.json") or {})["sessions"][0]
    assert kept.command == summary.command_of(first["argv"])
    assert kept.versions.keys() == {"fwt", "torch", "numpy", "python"}
    assert [step for step, _ in kept.curve] == [6]


def test_a_run_that_trained_with_others_took_its_share(finished, tmp_path):
    assert summary.of_folder(finished).members == 1
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    told = json.loads((copy / "run.json").read_text())
    told["sessions"][-1]["members"] = 3
    (copy / "run.json").write_text(json.dumps(told))
    kept = summary.of_folder(copy).model_copy(update={"train_s": 270.0})
    assert (kept.members, kept.minutes) == (3, 1.5)
    told["sessions"][-1]["members"] = 0
    (copy / "run.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="members"):
        summary.of_folder(copy)


def test_a_run_that_has_not_ended_is_not_kept(stopped):
    with pytest.raises(CheckpointError, match="has not"):
        summary.of_folder(stopped)


def test_a_command_names_no_places():
    words = ["train", "--out", "runs/x", "--lr", "1e-3", "--data-dir=/data", "-o", "y", "--seed=3"]
    assert summary.command_of(words) == "fwt train --lr 1e-3 --seed=3"


def test_a_curve_is_thinned_evenly_and_keeps_its_ends():
    points = [(step, float(step)) for step in range(1001)]
    found = summary.thinned(points, 11)
    assert found == [(step, float(step)) for step in range(0, 1001, 100)]
    assert summary.thinned(points[:7], 11) == points[:7]


def test_stored_runs_come_back_and_a_new_one_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new" / "retrieval.json"
    first = [record("lstm", 50, 1, 4.0), record("irnn", 50, 0, 60.0)]
    summary.add(path, first)
    assert summary.load(path) == [first[1], first[0]]
    before = path.read_bytes()
    summary.add(path, [first[1]])
    assert path.read_bytes() == before
    newer = record("lstm", 50, 1, 3.0)
    other = record("lstm", 50, 1, 5.0, backend="mlx")
    summary.add(path, [newer, other])
    assert summary.load(path) == [first[1], other, newer]
    assert len(path.read_text().splitlines()) == 2 + 3  # a line a run


@pytest.mark.parametrize("text", ["[]", '{"runs": 3}', "{"])
def test_a_damaged_store_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.json"):
        summary.load(path)


def test_a_record_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "x.json"
    summary.add(path, [record("lstm", 50, 0, 1.0)])
    path.write_text(path.read_text().replace('"commit"', '"comit"'))
    with pytest.raises(ConfigError, match=r"x\.json: run 0.*'comit'.*'commit'"):
        summary.load(path)


# --- the page -------------------------------------------------------------------------------


def test_a_cell_shows_published_ours_and_where_it_comes_from():
    found = lines_of(*(record("lstm", 50, seed, error) for seed, error in enumerate((2, 3, 7))))
    assert (
        "| lstm | 50 | 1.85 | 3.88 | 4.00 ± 2.65 (3) | s0 2.00, s1 3.00, s2 7.00 | torch, cpu "
        "| 1,234 | 1,000 | 1.5 | `fwt reproduce retrieval --model lstm --size 50` |"
    ) in found
    assert (
        "| lstm | 50 | 1 | torch, cpu, Z80 | 3.00 | 3.50 | 700 | 1,000 | 1.5 | abc1234 "
        "| torch 2.9, python 3.11 |"
    ) in found
    assert (
        "| irnn | 50 | 60.23 | 64.60 | not run |  | torch |  |  |  "
        "| `fwt reproduce retrieval --model irnn --size 50` |"
    ) in found


def test_backends_have_rows_of_their_own():
    found = lines_of(record("fast-weights", 20, 0, 1.0), record("lstm", 20, 0, 50.0, backend="mlx"))
    rows = [line for line in found if "| `fwt reproduce" in line and "| 20 |" in line]
    assert [row.split(" | ")[0] for row in rows] == [
        "| irnn", "| lstm", "| lstm", "| alstm", "| fast-weights", "| fast-weights"
    ]  # fmt: skip
    assert "| 50.00 (1) | s0 50.00 | mlx, cpu |" in rows[2]
    assert rows[2].endswith("--size 20 --backend mlx` |")
    assert "| not run |  | mlx |" in rows[5]


def test_one_string_of_twenty_thousand_is_seen():
    found = lines_of(*(record("lstm", 100, seed, seed * 0.005) for seed in range(3)))
    told = "| 0.005 ± 0.005 (3) | s0 0.00, s1 0.005, s2 0.010 |"
    assert any(line.startswith("| lstm | 100 |") and told in line for line in found)
    found = lines_of(record("lstm", 100, 0, 1.0), record("lstm", 100, 1, 1.02))
    assert any("| 1.01 ± 0.01 (2) | s0 1.00, s1 1.02 |" in line for line in found)
    assert [tally.digits(error) for error in (0.0, 0.099, 0.1)] == ["0.00", "0.099", "0.10"]
    assert tally.spread([0.0, 0.005]) == "0.003 (0.00 to 0.005)"


def test_a_run_that_diverged_is_on_the_page():
    found = lines_of(record("irnn", 20, 0, 60.0), record("irnn", 20, 1, None))
    assert any("| 60.00 (1, 1 diverged) | s0 60.00, s1 diverged |" in line for line in found)
    found = lines_of(record("irnn", 20, 1, None))
    assert any("| irnn | 20 | 62.11 | 71.20 | diverged | s1 diverged |" in row for row in found)


def test_a_changed_recipe_takes_the_number_away_and_keeps_the_run():
    old = record("lstm", 50, 0, 2.0)
    spec = old.spec.model_copy(update={"train": old.spec.train.model_copy(update={"lr": 0.5})})
    before, after = lines_of(old), lines_of(old.model_copy(update={"spec": spec}))
    assert before != after
    assert any(line.startswith("| lstm | 50 | 1.85 | 3.88 | not run |") for line in after)
    recipe = old.spec.train.lr
    assert (
        f"| lstm | 50 | 0 | torch, cpu | 2.00 | train.lr = 0.5 (recipe: {recipe}) | abc1234 |"
        in after
    )
    assert not any("train.lr" in line for line in before)


def test_the_search_is_told_model_by_model(tmp_path):
    path = search.path_of(tmp_path, "retrieval")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SEARCH))
    found = search.load(tmp_path, "retrieval")
    one = Chapter("retrieval", cells_of("retrieval").every(), [], found)
    told = page.page([one]).partition("### Search\n\n")[2].splitlines()
    assert "(random, 2 settings each, 1 seed, train.epochs = 8; `fwt sweep" in told[0]
    assert told[4:6] == [
        "| lstm | 20 | 2 | 40.50 | lr = 0.00212, clip = 1 | lr = 0.003, clip = 0 |",
        "| irnn | 20 | 2 | none |  |  |",
    ]


def test_a_search_that_was_not_run_says_so(tmp_path):
    assert search.load(tmp_path, "retrieval") is None
    assert "A search with the same budget for every model was not run." in lines_of()


def test_the_search_of_another_task_is_refused(tmp_path):
    path = search.path_of(tmp_path, "mnist-glimpse")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SEARCH))
    with pytest.raises(FileError, match=r"search of mnist-glimpse, got task='retrieval'"):
        search.load(tmp_path, "mnist-glimpse")


@pytest.mark.parametrize("task", PRINTED)
def test_every_cell_of_a_table_is_searched_alike(task):
    file = tomllib.loads((ROOT / f"fwt/reproduce/search/{task}.toml").read_text(encoding="utf-8"))
    assert file["task"] == task
    assert set(file["axes"]["model"]) == PRINTED[task].keys()
    assert all(set(file["axes"]["size"]) == errors.keys() for errors in PRINTED[task].values())
    assert not file["axes"].keys() - {"model", "size", "seed"}, "all else is searched"
    base = {NAMES.get(name, name): value for name, value in file["base"].items()}
    budgets = set()
    for model, size in product(file["axes"]["model"], file["axes"]["size"]):
        spec = cells_of(task)._spec(model, {**base, "model.core.size": size})
        budgets.add((json.dumps(spec.task), spec.train.total_steps(100_000), spec.train.batch_size))
    assert len(budgets) == 1, "the same data, updates and batches for all"


def test_the_short_tables_have_a_row_for_each_model_and_backend():
    found = chapter(
        record("fast-weights", 20, 0, 1.5), record("lstm", 20, 0, 60.0),
        record("lstm", 20, 1, 61.0), record("fast-weights", 20, 0, 2.5, backend="mlx"),
    )  # fmt: skip
    lines = page.short_tables([found, found]).splitlines()
    assert lines[:9] == [
        "Associative retrieval:",
        "",
        "| model | R = 20 | [P] | R = 50 | [P] | R = 100 | [P] |",
        "|---|---|---|---|---|---|---|",
        "| irnn | not run | 62.11 | not run | 60.23 | not run | 0.34 |",
        "| lstm | 60.50 ± 0.71 (2) | 60.81 | not run | 1.85 | not run | 0.00 |",
        "| alstm | not run | 60.13 | not run | 1.62 | not run | 0.00 |",
        "| fast-weights | 1.50 (1) | 1.81 | not run | 0.00 | not run | 0.00 |",
        "| fast-weights, mlx | 2.50 (1) | 1.81 | not run | 0.00 | - | 0.00 |",
    ]
    assert lines[9:11] == ["", "Associative retrieval:"]
    first, last = page.README_MARKS
    tables = page.short_tables([found])
    assert page.rewrite(f"a\n{first}\nold\n{last}\nb", [found]) == f"a\n{first}\n{tables}{last}\nb"
    assert page.rewrite("no marks", [found]) == "no marks"


# --- the order of the models ----------------------------------------------------------------


def test_the_papers_order_is_said():
    text = tally.order_sentence({"a": 60.0, "b": 2.0}, {"a": [50.0], "b": [1.0, 3.0]})
    assert text == "Ours, best first: b 2.00 (1.00 to 3.00), a 50.00. The order is [P]'s."


def test_another_order_is_said_with_its_spread():
    text = tally.order_sentence({"a": 1.0, "b": 2.0}, {"a": [3.0, 5.0], "b": [1.0, 2.0]})
    assert text == (
        "Ours, best first: b 1.50 (1.00 to 2.00), a 4.00 (3.00 to 5.00). **The order differs:** "
        "[P] has a (1.00) before b (2.00), here b is at 1.50 (1.00 to 2.00) and a at 4.00 "
        "(3.00 to 5.00); the runs do not overlap."
    )
    text = tally.order_sentence({"a": 1.0, "b": 2.0}, {"a": [1.0, 5.0], "b": [2.0]})
    assert text.endswith("the runs overlap.")
    text = tally.order_sentence({"a": 1.0, "b": 2.0}, {"a": [3.0], "b": [2.0]})
    assert text.endswith("one run each.")


def test_models_that_tie_in_the_paper_may_have_any_order():
    text = tally.order_sentence({"a": 0.0, "b": 0.0, "c": 1.0}, {"a": [2.0], "b": [1.0], "c": []})
    assert text.endswith("The order is [P]'s. Not compared, because not run: c.")


# --- figures --------------------------------------------------------------------------------


def test_figures_show_means_and_name_what_is_missing():
    runs = [record("lstm", 50, seed, 2.0) for seed in (0, 2)]
    updates, control, harder = figures("retrieval", chapter().cells, runs)
    (line,) = updates.lines
    assert (line.label, line.x) == ("lstm", (100.0, 200.0))
    assert (line.low, line.middle, line.high) == ((20.0, 58.0), (20.0, 59.0), (20.0, 60.0))
    assert updates.caption.endswith(
        "Left out, for want of a stored learning curve: irnn R=50, alstm R=50, fast-weights R=50."
    )
    assert not control.drawn
    assert len(harder.missing) == 4 * 2 * 3 - 1
    assert "irnn R=100 K=16" in harder.missing
    assert [(line.label, line.panel, line.x) for line in harder.lines] == [("lstm", "R = 50", (4,))]


def test_a_curve_is_the_mean_of_the_seeds_that_reach_a_place_and_says_how_many():
    runs = [
        record("lstm", 50, 0, 2.0, curve=[[100, 80.0], [200, 40.0], [300, 10.0]]),
        record("lstm", 50, 1, 2.0, curve=[[100, 70.0], [300, 30.0]]),
        record("lstm", 50, 2, 2.0, curve=[]),
    ]
    (line,) = figures("retrieval", chapter().cells, runs)[0].lines
    assert (line.x, line.middle) == ((100.0, 200.0, 300.0), (25.0, 55.0, 80.0))
    assert line.label == "lstm (2 seeds)"


def test_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from fwt.plots.styles import OF_NAME
    from fwt.reproduce.drawing import draw

    group = {(c.model, c.size, c.pairs): c for c in cells_of("retrieval").group("harder")}
    runs = [record(model, 50, 0, 2.0) for model in PRINTED["retrieval"]]
    for pairs in (8, 16):
        spec = group["lstm", 100, pairs].seeded(0)
        runs.append(runs[1].model_copy(update={"spec": spec, "test_error_pct": 1.0 * pairs}))
    found = figures("retrieval", chapter().cells, runs)
    assert [line.middle for line in found[2].lines if line.panel == "R = 100"] == [(8.0, 16.0)]
    assert [line.middle for line in found[2].lines if line.panel == "R = 50"] == [(2.0,)] * 4
    written = draw(found, tmp_path / "new")
    assert [path.name for path in written] == [
        "retrieval-updates-r50.png", "retrieval-control.png", "retrieval-harder.png"
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    used = {model for models in PRINTED.values() for model in models}
    assert used <= OF_NAME.keys()
    assert len(set(OF_NAME.values())) == len(OF_NAME)


# --- the files of the checkout --------------------------------------------------------------


def test_the_page_is_that_of_the_stored_runs_and_present_recipes():
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert text == page.page(chapters(ROOT)), "stale: fwt reproduce retrieval --page-only"
    for each in chapters(ROOT):
        for figure in figures(each.task, each.cells, each.records):
            assert figure.drawn == (f"docs/figures/{figure.file}" in text)
            assert not figure.drawn or (ROOT / "docs" / "figures" / figure.file).is_file()


def test_the_readme_is_that_of_the_stored_runs_and_present_recipes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.rewrite(text, chapters(ROOT)) == text, "stale: fwt reproduce retrieval --page-only"
