"""`fwt gradients`: its numbers are those of `flow`, of runs, checkpoints and specs."""

from __future__ import annotations

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.fwcore.analysis.flow import flow
from fwt.fwcore.model import parameters
from fwt.fwcore.params import initialise
from fwt.fwcore.storage.runs import find_checkpoint
from tests.cli_tools import ROOT, TINY, clean_environment, good, refused

STRINGS = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
FEW = ("--examples", 5, "--jacobians", 2, "--quiet")
TRAINING = list(backends.TRAINING_ORDER)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def wanted(spec, params, name, pairs=4):
    test = tasks.load(tasks.parse({**spec.task, "pairs": pairs})).split("test")
    network = backends.load(name).compile(spec.model, params, device="cpu", dtype="float32")
    return flow(network, test.inputs[:5], test.targets[:5], 2)


def check(told, want):
    for name in ("loss", "jacobians", "reach"):
        assert told[name] == pytest.approx(getattr(want, name), rel=1e-4)


@pytest.mark.parametrize("name", TRAINING)
def test_trained_and_first_weights(name):
    told = good("gradients", STRINGS, "--first", *FEW, "--backend", name, "--json").json
    spec = find_checkpoint(STRINGS).spec
    trained, first = told["networks"]
    assert (trained["label"], trained["weights"]) == ("fast-weights R=20", "trained")
    assert first["weights"] == "first weights"
    check(trained, wanted(spec, find_checkpoint(STRINGS).params, name))
    check(first, wanted(spec, initialise(parameters(spec.model), spec.train.seed), name))
    assert (told["examples"], told["jacobians"]) == (5, 2)


def test_longer_strings_are_asked_for():
    told = good("gradients", STRINGS, *FEW, "--pairs", 7, "--backend", "torch", "--json").json
    found = find_checkpoint(STRINGS)
    check(told["networks"][0], wanted(found.spec, found.params, "torch", pairs=7))
    assert len(told["networks"][0]["loss"]) == 17


def test_runs_and_specs_stand_side_by_side(tmp_path):
    run = tmp_path / "run"
    good("train", *TINY, "--model", "lstm", "--backend", "torch", "--out", run)
    short = tmp_path / "short.toml"
    short.write_text('[model.core]\nkind = "rnn"\nsize = 3\n[train]\nseed = 4\n')
    path = tmp_path / "deep" / "flow.svg"
    arguments = (run, short, run / "spec.json", *FEW, "--backend", "torch", "--figure", path)
    told = good("gradients", *arguments, "--json").json["networks"]
    labels = [(one["label"], one["weights"]) for one in told]
    assert labels == [
        ("lstm R=4", "trained"), ("rnn R=3", "first weights"), ("lstm R=4", "first weights"),
    ]  # fmt: skip
    spec = find_checkpoint(run).spec
    check(told[2], wanted(spec, initialise(parameters(spec.model), spec.train.seed), "torch"))
    assert not np.allclose(told[0]["loss"], told[2]["loss"])
    drawn = path.read_text()
    assert all(f"{label}, {weights}" in drawn for label, weights in labels)


def test_the_table_has_a_line_a_step():
    lines = good("gradients", STRINGS, *FEW, "--backend", "torch").out.splitlines()
    assert lines[0].startswith("fast-weights R=20, trained (")
    assert [line.split()[0] for line in lines[2:]] == [str(tau) for tau in range(11)]


@pytest.mark.parametrize(
    ("code", "words", "flags"),
    [
        (3, "no gradients", ("--backend", "numpy")),
        (2, "at most 20000, got examples=20001", ("--examples", 20001)),
        (2, ".png or .svg", ("--figure", "a.pdf")),
    ],
)
def test_what_cannot_be_had_is_refused(code, words, flags):
    refused(code, (words,), "gradients", STRINGS, "--quiet", *flags)


def test_a_file_that_is_no_spec_is_named(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[model")
    refused(2, (str(broken), "is not TOML"), "gradients", broken)
    refused(4, (str(tmp_path / "none"),), "gradients", tmp_path / "none")
