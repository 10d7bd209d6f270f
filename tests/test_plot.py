"""`fwt plot`: curves by setting, mean and range over seeds, every axis, and what is refused."""

from __future__ import annotations

import json

import pytest

from fwt.plots.styles import OF_NAME, STYLES
from tests.cli_tools import TINY, clean_environment, good, refused

ASKED = ("--eval-every", 2, "--log-every", 1, "--backend", "torch", "--quiet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one setting, one of another, and an LSTM."""
    root = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    clean_environment(patch)
    for name, more in {
        "a0": ("--seed", 0),
        "a1": ("--seed", 1),
        "b0": ("--seed", 0, "--rate", 0.25),
        "l0": ("--seed", 0, "--model", "lstm"),
    }.items():
        good("train", *TINY, *ASKED, *more, "--out", root / name)
    patch.undo()
    return root


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def lines(runs, name, split, key):
    texts = (runs / name / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(text) for text in texts]
    return {row["step"]: row[key] for row in rows if row["split"] == split and key in row}


def told(runs, tmp_path, *flags):
    path = tmp_path / "curves.svg"
    found = good("plot", runs, "-o", path, "--json", *flags).json
    assert (found["figure"], path.exists()) == (str(path), True)
    return {curve["label"]: curve for curve in found["curves"]}


def test_a_setting_is_a_curve_with_its_mean_and_range(runs, tmp_path):
    found = told(runs, tmp_path)
    half = "fast-weights R=4, rate=0.02"
    assert list(found) == [half, "fast-weights R=4, rate=0.25", "lstm R=4"]
    first, second = (lines(runs, name, "val", "error_pct") for name in ("a0", "a1"))
    curve = found[half]
    assert curve["seeds"] == [0, 1]
    assert curve["x"] == [2, 4, 6]
    assert curve["middle"] == pytest.approx([(first[t] + second[t]) / 2 for t in (2, 4, 6)])
    assert curve["low"] == [min(first[t], second[t]) for t in (2, 4, 6)]
    assert curve["high"] == [max(first[t], second[t]) for t in (2, 4, 6)]
    assert first != second


def test_axes_are_updates_examples_or_seconds(runs, tmp_path):
    label = "lstm R=4"
    assert told(runs, tmp_path, "--x", "examples")[label]["x"] == [64, 128, 192]
    seconds = lines(runs, "l0", "val", "elapsed_s")
    assert told(runs, tmp_path, "--x", "seconds")[label]["x"] == list(seconds.values())
    norms = lines(runs, "l0", "train", "grad_norm")
    assert told(runs, tmp_path, "--y", "grad-norm")[label]["middle"] == list(norms.values())
    losses = lines(runs, "l0", "train", "loss")
    found = told(runs, tmp_path, "--y", "loss", "--split", "train", "--log")
    assert found[label]["middle"] == list(losses.values())


def test_the_picture_names_axes_and_curves(runs, tmp_path):
    path = tmp_path / "curves.svg"
    shown = good("plot", runs / "a0", runs / "a1", runs / "l0", "-o", path).out.splitlines()
    text = path.read_text()
    for words in ("fast-weights R=4 (2 seeds)", "lstm R=4", "updates", "validation error, %"):
        assert f"<!-- {words} -->" in text
    assert shown[0].startswith("fast-weights R=4  seeds 0, 1  last ")
    assert shown[-1] == f"figure  {path}"


def test_a_run_that_is_being_written_is_drawn_and_a_damaged_one_named(runs, tmp_path):
    for name, text in (("open", '{"step": 8, "spl'), ("damaged", "nonsense\n{}\n")):
        folder = tmp_path / name
        folder.mkdir()
        for part in ("spec.json", "run.json"):
            (folder / part).write_text((runs / "a0" / part).read_text())
        whole = (runs / "a0" / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(whole + text)
    assert told(tmp_path / "open", tmp_path)["fast-weights R=4"]["x"] == [2, 4, 6]
    number = len((runs / "a0" / "metrics.jsonl").read_text().splitlines()) + 1
    words = (str(tmp_path / "damaged"), f"line {number} is damaged")
    refused(4, words, "plot", tmp_path / "damaged", "-o", tmp_path / "x.png")


def test_lines_whose_steps_fall_are_damaged(runs, tmp_path):
    for part in ("spec.json", "run.json"):
        (tmp_path / part).write_text((runs / "a0" / part).read_text())
    rows = (runs / "a0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    first, second, *_ = [at for at, row in enumerate(rows) if json.loads(row)["split"] == "val"]
    rows[first], rows[second] = rows[second], rows[first]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    words = (f"line {second + 1} is damaged", "expected a step of at least 4", "got step=2")
    refused(4, words, "plot", tmp_path, "-o", tmp_path / "x.png")


@pytest.mark.parametrize(
    ("code", "words", "flags"),
    [
        (2, "--x: unknown name 'update' (did you mean 'updates'", ("--x", "update")),
        (2, "--y: unknown name", ("--y", "accuracy")),
        (2, "--split: unknown name", ("--split", "test")),
        (2, "no run of 4 has a line of grad-norm", ("--y", "grad-norm", "--split", "val")),
        (2, ".png or .svg", ("-o", "curves.jpg")),
    ],
)
def test_what_cannot_be_drawn_is_refused(runs, tmp_path, monkeypatch, code, words, flags):
    monkeypatch.chdir(tmp_path)
    refused(code, (words,), "plot", runs, *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_runs_is_named(tmp_path):
    refused(4, (str(tmp_path), "neither a run nor a sweep", "spec.json"), "plot", tmp_path)


def test_lines_are_told_apart_with_and_without_colour():
    assert len({style.colour for style in STYLES}) == len(STYLES)
    assert len({style.marker for style in STYLES}) == len(STYLES)
    assert len(set(map(str, (style.dashes for style in STYLES)))) > 3
    assert set(OF_NAME.values()) <= set(STYLES)
