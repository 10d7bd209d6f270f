"""`fwt inspect`: its numbers on all backends, its table, and its pictures."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.fwcore.analysis.trace import effective_rank
from fwt.fwcore.storage.runs import find_checkpoint
from tests.cli_tools import ROOT, TINY, clean_environment, good, refused
from tests.conftest import need

STRINGS = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
DIGITS = ROOT / "checkpoints" / "mnist-glimpse-fast-weights-r50"
STRING = "c9k8j3f1??c"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture
def stroke(tmp_path):
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:16] = 255
    np.save(tmp_path / "stroke.npy", image)
    return tmp_path / "stroke.npy"


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_the_numbers_are_those_of_the_network(name):
    need(name)
    told = good("inspect", STRINGS, "--example", STRING, "--backend", name, "--json").json
    found = find_checkpoint(STRINGS)
    inputs = tasks.reader(tasks.parse({"kind": "retrieval"})).parse(STRING)[None]
    want = backends.load("numpy").compile(found.spec.model, found.params).trace(inputs)
    assert (told["backend"], told["answer"], len(told["steps"])) == (name, "9", len(STRING))
    assert "".join(step["input"] for step in told["steps"]) == STRING
    for got, step in zip(told["steps"], want.steps, strict=True):
        assert got["norm_h"] == pytest.approx(np.linalg.norm(step.output), rel=1e-5)
        assert got["norm_slow"] == pytest.approx(np.linalg.norm(step.slow), rel=1e-5)
        assert got["effective_rank"] == pytest.approx(effective_rank(step.matrix[0]), rel=1e-4)
        assert sum(got["eigenvalues"]) == pytest.approx(np.trace(step.matrix[0]), rel=1e-4)
        for read, wanted in zip(got["reads"], step.reads, strict=True):
            pairs = zip(wanted.steps, wanted.weights[0], strict=True)
            assert read["attention"] == pytest.approx({str(t): w for t, w in pairs}, abs=1e-4)
            assert read["norm"] == pytest.approx(np.linalg.norm(wanted.result), abs=1e-3)


def test_the_question_attends_to_its_letter_and_digit():
    """What the task is about: at the last symbol, most of the attention is on the asked pair."""
    told = good("inspect", STRINGS, "--example", "k3c7a1q5??a", "--json").json
    last = told["steps"][-1]["reads"][0]["attention"]
    assert {"4", "5"} >= {max(last, key=last.get)}
    assert told["answer"] == "1"


def test_the_table_has_a_row_a_step():
    shown = good("inspect", STRINGS, "--example", STRING).out.splitlines()
    assert shown[0].split()[:2] == ["t", "input"]
    assert [line.split()[1] for line in shown[1:-1]] == list(STRING)
    assert shown[-1] == f"{STRING} -> 9  100.00%"


def test_the_control_signal_is_seen(stroke):
    """Glimpses that are not stored are never attended to."""
    steps = good("inspect", DIGITS, "--example", stroke, "--json").json["steps"]
    assert set(steps[-1]["reads"][0]["attention"]) == {"0", "6", "12", "18"}
    assert (steps[0]["input"], steps[1]["input"]) == ("coarse 0,0", "fine 0,0")


def texts(path):
    """What stands in an SVG; Matplotlib puts it into comments where it draws letters as paths."""
    return [html.unescape(text) for text in re.findall("<!-- (.*?) -->", path.read_text())]


def test_pictures_show_symbols_and_glimpses(tmp_path, stroke):
    heat, spectrum, views = (tmp_path / f"{name}.svg" for name in ("heat", "spectrum", "views"))
    good("inspect", STRINGS, "--example", STRING, "--figure", heat, "--spectrum", spectrum)
    words = texts(heat)
    assert f"{STRING} -> 9" in words
    assert [word for word in words if word in STRING][: 2 * len(STRING)] == list(STRING) * 2
    assert "eigenvalue of A(t)" in texts(spectrum)
    good("inspect", DIGITS, "--example", stroke, "--figure", views)
    words = texts(views)
    assert "1 fine 0,0" in words
    assert sum("attention" in word for word in words) == 4
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("fwt.api.on_backend", None)  # to compute would fail
    asked = ("inspect", STRINGS, "--example", STRING, "--figure")
    refused(2, (".png or .svg",), *asked, tmp_path / "a.bmp")
    monkeypatch.setattr("fwt.cli.drawing.find_spec", lambda _: None)
    refused(3, ("pip install 'fwt[plots]'",), *asked, tmp_path / "a.png")


def test_a_network_without_fast_memory_has_norms_alone(tmp_path):
    run = tmp_path / "run"
    good("train", *TINY, "--model", "gru", "--backend", "torch", "--out", run)
    asked = ("inspect", run, "--example", STRING)
    steps = good(*asked, "--json").json["steps"]
    assert all(step["norm_h"] > 0 for step in steps)
    assert all(step["reads"] == [] and step["effective_rank"] is None for step in steps)
    refused(2, ("reads no fast memory",), *asked, "--figure", tmp_path / "a.png")
