"""A user's own files of our folders' names are never taken for ours, nor ours for theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_tools import environment
from tests.conftest import need

NAMES = ("cli", "tasks", "fwcore", "benchmarks", "reports")
FOLDERS = ("backends", "demo", "figures", "sweeps", "reproduce")
SWEEP = """
name = "two"
task = "retrieval"
backend = "torch"
[base]
model = "irnn"
size = 4
steps = 2
batch_size = 4
"task.train" = 64
"task.val" = 8
"task.test" = 8
[axes]
seed = "0-1"
"""
PYTHON = """
import cli, tasks, backends, fwt
assert cli.OWN and tasks.OWN and backends.OWN
model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
print(model.predict("c9k8j3f1??c")[0]["answer"], fwt.tasks.__name__)
"""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder; each module in it would end a process that runs it as its main."""
    folder = tmp_path_factory.mktemp("own")
    text = "OWN = True\nif __name__ == '__main__':\n    raise SystemExit('the user\\'s own')\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(text)
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
        (folder / name / "__main__.py").write_text(text)
    (folder / "two.toml").write_text(SWEEP)
    return folder


def run(folder: Path, *words: object) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("start", [("fwt",), ("-m", "fwt")], ids=["command", "module"])
def test_verbs_run_beside_them(folder: Path, start: tuple[str, ...]) -> None:
    command = Path(sys.executable).with_name("fwt")
    begin = [command] if start == ("fwt",) else [sys.executable, *start]
    assert "retrieval" in run(folder, *begin, "list")
    evaluate = ("eval", "retrieval-fast-weights-r20", "--backend", "numpy")
    assert "error       0.53%" in run(folder, *begin, *evaluate)


def test_python_imports_both(folder: Path) -> None:
    assert run(folder, sys.executable, "-c", PYTHON) == "9 fwt.tasks\n"


def test_workers_of_a_sweep_run_beside_them(folder: Path) -> None:
    need("torch")
    pytest.importorskip("distributed")
    words = ("-m", "fwt", "sweep", "two.toml", "--workers", 1, "--quiet")
    assert "2 seeds" in run(folder, sys.executable, *words)


def test_processes_of_a_launcher_run_beside_them(folder: Path) -> None:
    need("torch")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    words = ("train", "--config", "run.toml", "--backend", "torch", "--quiet", "--out", "both")
    (folder / "run.toml").write_text(
        "[task]\nkind = 'retrieval'\ntrain = 64\nval = 8\ntest = 8\n[model.core]\nkind = 'rnn'\n"
        "size = 4\n[train]\nsteps = 2\nbatch_size = 4\n"
    )
    assert "test      error" in run(folder, sys.executable, *launch, "-m", "fwt", *words)
