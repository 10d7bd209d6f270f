"""A shell completes what options take from the registries, by typer's own protocol."""

from __future__ import annotations

import contextlib
import io
import typing

import pytest
import typer

from fwt import backends, tasks
from fwt.cli.main import app, run
from fwt.fwcore.cells import presets
from fwt.fwcore.memory import FORMS
from fwt.fwcore.spec import TrainSpec
from fwt.fwcore.storage.layouts import LAYOUTS
from fwt.settings import CONTROLS
from fwt.tasks.base import SPLITS
from fwt.tasks.glimpses import POLICIES
from fwt.tasks.sources import NAMES
from tests.cli_tools import clean_environment


def completed(words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is told after these words; a last blank begins a new one."""
    clean_environment(monkeypatch)
    monkeypatch.setenv("_FWT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"fwt {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(f"fwt {words}".split(" ")) - 1))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        run([])
    return out.getvalue().split()


def training(field: str) -> list[str]:
    return list(typing.get_args(TrainSpec.model_fields[field].annotation))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("train --task ", list(tasks.TASKS)),
        ("train --task ret", ["retrieval"]),
        ("train --model ", list(presets())),
        ("train -m l", ["lstm"]),
        ("train --backend ", ["auto", *backends.BACKENDS]),
        ("predict x -b nu", ["numpy"]),
        ("train --device c", ["cpu", "cuda"]),
        ("train --memory ", list(FORMS)),
        ("train --control ", list(CONTROLS)),
        ("train --policy ", list(POLICIES)),
        ("train --dataset ", list(NAMES)),
        ("train --schedule ", training("schedule")),
        ("train --dtype ", training("dtype")),
        ("train --precision ", training("precision")),
        ("train --norm ", ["sum", "none", "slow", "both", "layer"]),
        ("train --init-layout ", list(LAYOUTS)),
        ("train --size 3 --task retrieval --size 4 --model g", ["gru"]),  # half typed
        ("convert a b --to ", list(LAYOUTS)),
        ("convert a b --from m", ["mlx"]),
        ("data ", list(tasks.TASKS)),
        ("data mnist-glimpse --dataset mnist-s", ["mnist-subset"]),
        ("data retrieval --split ", list(SPLITS)),
        ("eval runs/x --split t", ["train", "test"]),
        ("eval runs/x --task m", ["mnist-glimpse"]),
        ("verify runs/x --backends ", list(backends.BACKENDS)),
        ("verify runs/x --backends numpy,", ["numpy,torch", "numpy,mlx"]),
        ("report runs --backends torch,n", ["torch,numpy"]),
        ("reproduce ret", ["retrieval"]),
        ("reproduce retrieval --model al", ["alstm"]),
        ("tra", ["train"]),
        ("train --init", ["--init-from", "--init-layout"]),
    ],
)
def test_values_are_completed(words, names, monkeypatch):
    assert sorted(completed(words, monkeypatch)) == sorted(names)


def test_every_option_of_such_a_name_completes_in_every_verb():
    """A verb that is added takes them from `fwt.cli.options`."""
    names = {"backend", "device", "memory", "policy", "dataset", "split", "model", "task"}
    own = {("associator", "memory"), ("plot", "split")}  # other values, each with a few of its own
    for verb, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for param in command.params:
            if param.name in names and (verb, param.name) not in own:
                assert param._custom_shell_complete is not None, (verb, param.name)
