"""`fwt predict`: answers and probabilities on all backends, every way in, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.fwcore.storage.runs import find_checkpoint
from tests.cli_tools import ROOT, clean_environment, fwt, good, refused
from tests.conftest import need

STRINGS = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
DIGITS = ROOT / "checkpoints" / "mnist-glimpse-fast-weights-r50"
LINES = ("c9k8j3f1??c", "a1b2??b", "q7w4e0r6??e", "z3??z")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def chances(path: Path, inputs: np.ndarray) -> np.ndarray:
    """Softmax of the reference's scores."""
    found = find_checkpoint(path)
    scores = backends.load("numpy").compile(found.spec.model, found.params).forward(inputs)
    parts = np.exp(scores)
    return parts / parts.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_each_string_has_the_model_s_probabilities(name):
    need(name)
    done = good("predict", STRINGS, *LINES, "--backend", name, "--top", 10, "--json")
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    assert [one["input"] for one in done.json["predictions"]] == list(LINES)
    for text, one in zip(LINES, done.json["predictions"], strict=True):
        want = chances(STRINGS, reader.parse(text)[None])[0]
        got = {o["answer"]: o["probability"] for o in [one, *one["others"]]}
        assert list(got) == [str(n) for n in np.argsort(-want, kind="stable")]
        assert got == pytest.approx({str(n): p for n, p in enumerate(want)}, abs=1e-5)
    answers = [one["answer"] for one in done.json["predictions"]]
    assert answers == ["9", "2", "0", "3"]


def test_a_line_names_the_answer_its_probability_and_the_runners_up():
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    want = chances(STRINGS, reader.parse("a1b2??b")[None])[0]
    best = np.argsort(-want, kind="stable")
    shown = f"a1b2??b -> {best[0]}  {want[best[0]]:.2%}  ({best[1]} {want[best[1]]:.2%})\n"
    assert good("predict", STRINGS, "a1b2??b", "--top", 2).out == shown
    assert good("predict", STRINGS, "a1b2??b", "--top", 1).out == shown.split("  (")[0] + "\n"


def test_more_examples_than_a_batch_keep_their_order(monkeypatch):
    monkeypatch.setattr("fwt.model.BATCH", 2)
    many = ("c9k8j3f1??c", "a1b2??b", "c9k8j3f1??k", "a1b2??a", "c9k8j3f1??j")
    found = good("predict", STRINGS, *many, "--json").json["predictions"]
    assert [(one["input"], one["answer"]) for one in found] == list(
        zip(many, ("9", "2", "8", "1", "3"), strict=True)
    )


def test_examples_come_from_arguments_a_file_or_stdin(tmp_path, monkeypatch):
    want = good("predict", STRINGS, *LINES).out
    listed = tmp_path / "strings.txt"
    listed.write_text("\n".join(LINES) + "\n\n")
    assert good("predict", STRINGS, "--file", listed).out == want
    for more in ((), ("--file", "-")):
        monkeypatch.setattr("sys.stdin", io.StringIO(listed.read_text()))
        assert good("predict", STRINGS, *more).out == want


def test_a_prompt_answers_line_by_line_and_survives_a_bad_one(monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("c9k8j3f1??c\n\nc9k8??x\na1b2??b\n"))
    done = good("predict", STRINGS)
    assert [line.split("  ")[0] for line in done.out.splitlines()] == [
        "c9k8j3f1??c -> 9",
        "a1b2??b -> 2",
    ]
    assert "position 7: expected one of the letters c, k, got query='x'" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c9k8j3f1??z", "position 11: expected one of the letters c, k, j, f"),
        ("c9k8j3f1?c", "expected 2K + 3 symbols"),
        ("c9k!j3f1??c", "position 4: expected a digit 0-9, got unknown symbol '!'"),
        ("99k8j3f1??k", "position 1: expected a letter a-z, got '9'"),
    ],
)
def test_a_bad_string_is_named_with_its_position_and_nothing_is_answered(text, words):
    refused(2, (words,), "predict", STRINGS, "a1b2??b", text)


def test_an_image_needs_no_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("fwt.tasks.mnist_glimpse.images", None)  # to look for a dataset would fail
    rows = tasks.reader(tasks.parse({"kind": "mnist-glimpse"}))
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:16] = 255  # a stroke, which is a 1
    np.save(tmp_path / "stroke.npy", image)
    path = str(tmp_path / "stroke.npy")
    found = good("predict", DIGITS, path, "--top", 10, "--json").json["predictions"][0]
    want = chances(DIGITS, rows.parse(path)[None])[0]
    assert (found["input"], found["answer"]) == (path, "1")
    assert found["probability"] == pytest.approx(want[1], abs=1e-12)


def test_what_cannot_be_answered_is_refused(tmp_path, monkeypatch):
    refused(2, ("got both",), "predict", STRINGS, "a1??a", "--file", tmp_path / "x")
    refused(4, ("cannot be read",), "predict", STRINGS, "--file", tmp_path / "missing")
    refused(4, ("missing.npy",), "predict", DIGITS, tmp_path / "missing.npy")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    refused(2, ("got none in stdin",), "predict", STRINGS)
    assert fwt("predict", STRINGS, "a1??a", "--top", 0).code == 2
