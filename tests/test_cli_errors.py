"""What bad input gets from `fwt`: one line, the documented exit code, nothing half-written."""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import pytest

from fwt import plan
from fwt.fwcore import params
from fwt.fwcore.errors import FwtError
from fwt.tasks import retrieval
from tests.cli_tools import (
    DIGITS,
    TINY,
    check_refusal,
    clean_environment,
    fwt,
    good,
    python,
    refused,
    snapshot,
)
from tests.conftest import need

Tensors = dict[str, np.ndarray]
Labels = dict[str, str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)
    need("torch")


# --- names and numbers --------------------------------------------------------------------

TRAINING: list[tuple[int, list[str], tuple[object, ...]]] = [
    (2, ["unknown task 'retreival'", "mean 'retrieval'"], ("--task", "retreival")),
    (2, ["unknown model 'lstn'", "mean 'lstm'"], ("--model", "lstn")),
    (2, ["unknown name 'tourch'", "mean 'torch'"], ("--backend", "tourch")),
    (2, ["no such option: --stepz", "--steps"], ("--stepz", 3)),
    (2, ["unknown form 'matrx'", "mean 'matrix'"], ("--memory", "matrx")),
    (2, ["unknown form 'matrx'"], ("--model", "lstm", "--memory", "matrx")),
    (2, ["reads no fast memory", "'lstm'"], ("--model", "lstm", "--memory", "matrix")),
    (2, ["train.schedule", "'cosine'", "got", "'cosin'"], ("--schedule", "cosin")),
    (2, ["norm", "'slow'", "got norm='slwo'"], ("--norm", "slwo")),
    (2, ["norm", "'layer'", "got norm='sum'"], ("--norm", "sum", "--model", "lstm")),
    (2, ["unknown key 'decay'"], ("--decay", 0.5, "--model", "lstm")),
    (2, ["train.dtype", "'bfloat16'", "'float33'"], ("--dtype", "float33")),
    (2, ["train.precision", "'tf32'", "'best'"], ("--precision", "best")),
    (3, ["no device 'cuda:99'", "cpu"], ("--device", "cuda:99")),
    (3, ["no device 'tpu'", "cpu"], ("--device", "tpu")),
    (3, ["backend numpy", "cannot train", "torch or mlx"], ("--backend", "numpy")),
    (2, ["size", "expected at least 1", "got size=0"], ("--size", 0)),
    (2, ["size", "got size=-3"], ("--size", -3)),
    (2, ["size", "even number", "got size=21"], ("--model", "alstm", "--size", 21)),
    (2, ["copies", "got copies=0"], ("--model", "alstm", "--set", "model.core.copies=0")),
    (2, ["'convnet'", "pictures", "task='retrieval'"], ("--model", "convnet")),
    (2, ["--size", "expected a whole number"], ("--size", "abc")),
    (2, ["batch_size", "got train.batch_size=0"], ("--batch-size", 0)),
    (2, ["256 training examples", "batch_size=257", "smaller"], ("--batch-size", 257)),
    (2, ["train.steps", "=0"], ("--steps", 0)),
    (2, ["train.steps", "=-1"], ("--steps", -1)),
    (2, ["train.lr", "got train.lr=-0.1"], ("--lr", -0.1)),
    (2, ["train.lr", "finite"], ("--lr", "nan")),
    (2, ["decay", "expected at most 1", "decay=1.5"], ("--decay", 1.5)),
    (2, ["dropout", "expected a number below 1", "dropout=1"], ("--dropout", 1)),
    (2, ["keep", "=0"], ("--keep", 0)),
    (2, ["--stop-after", "expected at least 1"], ("--stop-after", 0)),
    (2, ["at most 26", "got pairs=27"], ("--pairs", 27)),
    (2, ["at least 1 pair", "got pairs=0"], ("--pairs", 0)),
    (2, ["unknown key 'policy'"], ("--policy", "raster")),
    (2, ["unknown key 'trian'", "mean 'train'"], ("--set", "task.trian=3")),
    (2, ["unknown key 'train.lrr'", "mean 'lr'"], ("--set", "train.lrr=1")),
    (2, ["--set", "TABLE.KEY=VALUE", "'trian.lr=1'"], ("--set", "trian.lr=1")),
    (2, ["--set", "TABLE.KEY=VALUE", "'task=3'"], ("--set", "task=3")),
    (2, ["--set", "TABLE.KEY=VALUE", "'train.lr'"], ("--set", "train.lr")),
    (2, ["expected a table 'model.core'"], ("--set", "model.core=3")),
    (2, ["expected a table 'core'"], ("--set", "model.core=3", "--set", "model.core.size=3")),
    (2, ["exactly one of epochs and steps"], ("--epochs", 3)),
]


@pytest.mark.parametrize(("code", "words", "wrong"), TRAINING, ids=lambda part: str(part)[:40])
def test_training_refuses(code, words, wrong, tmp_path):
    refused(code, words, "train", *TINY, *wrong, "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


OTHERS: list[tuple[int, list[str], tuple[object, ...]]] = [
    (2, ["no such command 'trian'", "'train'"], ("trian",)),
    (2, ["missing argument 'checkpoint'", "fwt eval --help"], ("eval",)),
    (2, ["--task: expected a task, got none"], ("train",)),
    (2, ["unknown policy", "mean 'raster'", "'rastre'"], (*DIGITS, "--policy", "rastre")),
    (2, ["unknown dataset", "mean 'mnist'", "'mnits'"], (*DIGITS, "--dataset", "mnits")),
    (2, ["unknown key 'pairs'"], (*DIGITS, "--pairs", 3)),
    (2, ["unknown task 'mnist'", "mnist-glimpse"], ("data", "mnist")),
    (2, ["unknown split 'tset'", "mean 'test'"], ("data", "retrieval", "--split", "tset")),
    (2, ["unknown key 'pairs'"], ("data", "mnist-glimpse", "--pairs", 3)),
    (2, ["--show"], ("data", "retrieval", "--show", -1)),
    (4, ["no such file or folder"], ("eval", "nowhere")),
    (4, ["no such file or folder"], ("verify", "nowhere")),
    (4, ["nowhere.pt", "no such file"], ("convert", "nowhere.pt", "there", "--to", "torch")),
    (2, ["no run in nowhere", "spec.json"], ("train", "--resume", "nowhere")),
]


@pytest.mark.parametrize(("code", "words", "arguments"), OTHERS, ids=lambda part: str(part)[:40])
def test_other_verbs_refuse(code, words, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(code, words, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_verbs_refuse_beside_a_good_checkpoint(finished, tmp_path):
    before = snapshot(finished)
    refused(2, ["unknown split 'tst'"], "eval", finished, "--split", "tst")
    refused(2, ["unknown name 'nunpy'", "mean 'numpy'"], "eval", finished, "--backend", "nunpy")
    refused(2, ["unknown form 'matrx'"], "eval", finished, "--memory", "matrx")
    words = ["expected a checkpoint of task 'mnist-glimpse'", "'retrieval'"]
    refused(2, words, "eval", finished, "--task", "mnist-glimpse")
    refused(2, ["unknown key 'dataset'"], "eval", finished, "--dataset", "mnist")
    refused(2, ["two or more", "'numpy'"], "verify", finished, "--backends", "numpy")
    refused(2, ["two or more"], "verify", finished, "--backends", "numpy,numpy")
    refused(2, ["unknown name 'torhc'"], "verify", finished, "--backends", "numpy,torhc")
    refused(3, ["no device 'cuda:99'"], "verify", finished, "--device", "cuda:99")
    target = tmp_path / "there"
    refused(2, ["layout 'trch'", "mean 'torch'"], "convert", finished, target, "--to", "trch")
    refused(2, ["'--to'"], "convert", finished, target)
    assert not target.exists()
    target.mkdir()
    refused(2, ["exists"], "convert", finished, target, "--to", "torch")
    assert list(target.iterdir()) == []
    assert snapshot(finished) == before


def test_debug_shows_the_traceback_and_the_next_command_does_not():
    done = fwt("train", "--task", "retreival", "--debug")
    assert done.code == 2
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("error: task: unknown task")
    refused(2, ["unknown task"], "train", "--task", "retreival")
    done = fwt("train", "--task", "retreival", "--debug", "--stepz")
    assert done.err.splitlines()[-1].startswith("error: no such option")


def test_an_error_of_several_lines_is_shown_as_one(monkeypatch):
    def broken(*_: object) -> None:
        warnings.warn("a warning\nof two lines", UserWarning, stacklevel=1)
        raise FwtError("where: what\n\tand what to do\n")

    monkeypatch.setattr(plan, "new_jobs", broken)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = fwt("train", *TINY)
    assert done.err == "warning: a warning of two lines\nerror: where: what and what to do\n"
    assert done.code == 1


def test_a_fault_of_the_product_keeps_its_traceback(monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(plan, "new_jobs", broken)
    with pytest.raises(ZeroDivisionError):
        fwt("train", *TINY)


# --- memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "huge",
    [
        ("--size", 10**6),
        ("--size", 10**9),
        ("--size", 10**10),  # 64-bit products overflow from here on
        ("--size", 10**13),
        ("--size", 10**9, "--model", "lstm"),
        ("--batch-size", 10**9),
        ("--set", "task.train=100000000000"),
        ("--set", f"task.test={10**13}"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_made(huge, tmp_path, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("made before the memory was checked")

    monkeypatch.setattr(params, "initialise", never)
    monkeypatch.setattr(retrieval, "generate", never)
    began = time.monotonic()
    words = ["memory: the run needs about", "GiB", "has", "--batch-size", "--size"]
    refused(2, words, "train", *TINY, *huge, "--backend", "torch", "--out", tmp_path / "run")
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


def test_that_guard_would_see_weights_and_data_being_made(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "generate", lambda *_: pytest.fail("data made"))
    with pytest.raises(pytest.fail.Exception, match="data made"):
        fwt("train", *TINY, "--backend", "torch", "--out", tmp_path / "run")


# --- divergence ---------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [("--lr", "1e30"), ("--lr", "1e30", "--log-every", 1)])
@pytest.mark.usefixtures("eager")
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    cause, tmp_path, training_backend
):
    run = tmp_path / "run"
    words = ["expected finite numbers", "last good checkpoint", "--lr", "--clip 1", "--norm sum"]
    refused(5, words, "train", *TINY, *cause, "--backend", training_backend.name, "--out", run)
    assert (run / "last").read_text() == "step-00000000\n"
    assert not (run / "DONE").exists()
    assert good("eval", run, "--backend", "numpy", "--json").json["step"] == 0
    assert "exit 5" in json.loads((run / "run.json").read_text())["sessions"][-1]["exit"]


# --- config files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (2, "train = [", ["is not TOML"]),
        (2, "train = 3", ["expected a table 'train'", "train=3"]),
        (2, 'task = "retrieval"', ["expected a table 'task'"]),
        (2, "[model]\ncore = 4", ["expected a table 'model.core'"]),
        (2, "[trian]\nlr = 1", ["unknown key 'trian'", "mean 'train'"]),
        (2, "[train]\nlrr = 1", ["unknown key 'train.lrr'", "mean 'lr'"]),
        (2, "[train]\nlr = inf", ["train.lr", "finite"]),
        (2, '[train]\nlr = "fast"', ["train.lr", "expected a number", "'fast'"]),
        (2, "[task]\npairs = 27", ["at most 26"]),
        (2, "[model.core]\nkind = 'lstn'", ["unknown model 'lstn'", "mean 'lstm'"]),
        (2, "[model.core]\nsizes = 4", ["unknown key 'sizes'", "mean 'size'"]),
        (2, "[train]\nepochs = 1\nsteps = 2", ["exactly one of epochs and steps"]),
    ],
)
def test_configs_that_will_not_do(code, text, words, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(text)
    run = tmp_path / "run"
    refused(code, words, "train", "--task", "retrieval", "--config", config, "--out", run)
    assert not run.exists()


def test_config_files_that_cannot_be_read(tmp_path):
    train = ("train", "--task", "retrieval", "--config")
    refused(4, ["none.toml", "cannot be read"], *train, tmp_path / "none.toml")
    refused(4, ["cannot be read"], *train, tmp_path)
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe\x00")
    refused(4, ["cannot be read"], *train, tmp_path / "c.toml")
    (tmp_path / "c.json").write_text("[1]")
    refused(2, ["expected tables, got list"], *train, tmp_path / "c.json")
    (tmp_path / "c.json").write_text("{")
    refused(2, ["is not JSON"], *train, tmp_path / "c.json")


# --- outside of a command -----------------------------------------------------------------


def test_every_error_has_a_documented_exit_code():
    codes = {cls.exit_code for cls in (FwtError, *FwtError.__subclasses__())}
    assert codes == {1, 2, 3, 4, 5, 6}
    shown = " ".join(good("--help").out.split())
    words = "0 ok", "1 a check", "2 usage", "3 backend", "4 file", "5 div", "6 another", "130/143"
    for code in words:
        assert code in shown


def test_the_command_and_the_function_give_the_same_code():
    code = "import runpy, sys\nsys.argv[0] = 'fwt'\nrunpy.run_module('fwt', run_name='__main__')"
    done = python(code, "train", "--task", "retreival")
    assert done.code == 2
    check_refusal(done, ["unknown task 'retreival'"])
