"""`import fwt`: what it offers, its examples, and that the command line and it are one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest

import fwt
from fwt.cli.train import train as train_command
from fwt.fwcore.errors import CheckpointError, ConfigError
from fwt.keys import KEYS
from tests.cli_tools import good, python
from tests.conftest import need
from tests.equal_runs import metrics

SMALL = {"task.train": 256, "task.val": 64, "task.test": 64}
NAME = "retrieval-fast-weights-r20"


def small(folder: Path, **options):
    need("torch")
    options = {"size": 4, "batch_size": 32, "steps": 4, "out": folder, **options}
    return fwt.train("retrieval", "irnn", backend="torch", settings=SMALL, **options)


def public():
    for name in fwt.__all__:
        if name != "tasks":
            yield name, getattr(fwt, name)


def test_import_costs_nothing_and_lists_what_there_is():
    done = python(
        "import sys\nimport fwt\nprint(sorted(set(fwt.__all__) - set(dir(fwt))))\n"
        "print([name for name in ('torch', 'mlx', 'numpy', 'pydantic') if name in sys.modules])"
    )
    assert done.out == "[]\n[]\n", done
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = fwt.trian


@pytest.mark.parametrize(("name", "value"), list(public()))
def test_every_public_name_is_described_with_an_example_that_runs(name, value):
    if name != "FwtError":
        assert ">>> " in inspect.getdoc(value), name
    need("torch")
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner()
    module = importlib.import_module(value.__module__)
    for example in finder.find(value, name, module=module, globs={}):
        said: list[str] = []
        assert runner.run(example, out=said.append).failed == 0, "".join(said)


def test_options_are_those_of_the_command_line():
    flags = inspect.signature(train_command).parameters
    assert set(KEYS) <= set(flags)
    ours = set(inspect.signature(fwt.train).parameters) - {"options", "settings", "on_metrics"}
    assert ours <= set(flags), "the rest has the names of flags"


def test_a_run_is_that_of_the_command_line(tmp_path):
    lines: list[dict] = []
    result = small(tmp_path / "python", on_metrics=lines.append, log_every=2)
    words = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    words += ["--size", "4", "--batch-size", "32", "--steps", "4", "--log-every", "2"]
    other = good(
        "train", "--task", "retrieval", "-m", "irnn", "-b", "torch", *words,
        "--out", tmp_path / "shell", "--json",
    ).json  # fmt: skip
    for key in ("run", "checkpoint", "best_checkpoint", "train_s"):
        result.pop(key), other.pop(key)
    assert result == other
    assert [line["split"] for line in lines] == ["train", "train", "val", "test"]
    assert metrics(tmp_path / "python") == metrics(tmp_path / "shell")


def test_lists_are_several_runs(tmp_path):
    result = small(tmp_path, seeds=range(2), lr=[0.01, 0.02])
    assert [each["label"] for each in result["members"]] == [
        "seed=0 lr=0.01", "seed=0 lr=0.02", "seed=1 lr=0.01", "seed=1 lr=0.02",
    ]  # fmt: skip
    assert result["n"] == 4


def test_a_run_goes_on_and_is_loaded_on_another_backend(tmp_path):
    assert small(tmp_path / "run", stop_after=2)["step"] == 2
    assert fwt.resume(tmp_path / "run", backend="torch")["done"]
    longer = fwt.resume(str(tmp_path / "run"), backend="torch", steps=6)
    assert longer["steps"] == 6
    one, two = (fwt.load(tmp_path / "run", backend=name) for name in ("numpy", "torch"))
    batch = one.inputs(["c9k8j3f1??c", "a1b2c3d4??d"])
    np.testing.assert_allclose(one.forward(batch), two.forward(batch), rtol=1e-5, atol=1e-6)
    assert one.evaluate("val")["error_pct"] == two.evaluate("val")["error_pct"]
    assert one.evaluate("val")["examples"] == SMALL["task.val"]


def test_a_model_gives_what_its_parts_give():
    model = fwt.load(NAME, backend="numpy")
    batch = model.inputs("c9k8j3f1??c")
    assert model.predict(batch[0])[0]["answer"] == "9"
    traced = model.trace("c9k8j3f1??c")
    np.testing.assert_allclose(traced.scores, model.forward(batch), rtol=1e-12)
    stream, h = model.stream(), None
    embedded = model.parameters()["encoder.weight"][batch[0]]
    for x in embedded:
        h = stream.step(x[None])
    states = model.compiled.states(embedded[None])
    np.testing.assert_allclose(h, states[0][:, -1], rtol=1e-12)
    assert model.module.keys() == model.parameters().keys()
    assert model.describe()["backend"] == "numpy"
    assert model.spec.model.core.size == 20


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: fwt.train(), ConfigError, "--task: expected a task"),
        (lambda: fwt.train("retrieval", sise=4), ConfigError, "'sise' (did you mean 'size'?"),
        (lambda: fwt.train("retrieval", seed=1, seeds=[1]), ConfigError, "got both"),
        (lambda: fwt.train("retrieval", settings={"trian.lr": 1}), ConfigError, "trian"),
        (lambda: fwt.load("no-such-run"), CheckpointError, "no-such-run: no such file"),
        (lambda: fwt.load(NAME, backend="numpi"), ConfigError, "did you mean 'numpy'"),
        (lambda: fwt.verify(NAME, "numpy"), ConfigError, "two or more, got 'numpy'"),
        (lambda: fwt.load(NAME, "numpy").inputs(["a1??a", "a1b2??a"]), ConfigError, "one shape"),
    ],
)
def test_what_cannot_be_is_refused_in_the_same_words(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


def test_shipped_networks_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(fwt.checkpoints()) >= {NAME, "retrieval-lstm-r20"}
    assert good("eval", NAME, "--backend", "numpy", "--json").json["error_pct"] == 0.525
    (tmp_path / NAME).mkdir()
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run"):
        fwt.load(NAME)  # what is there under the path comes first
