"""`--data-dir`: a folder that is not there, has nothing of the set, or that nothing reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from fwt import tasks
from fwt.data import folder_for, load
from fwt.execute.executor import Cluster
from fwt.fwcore.errors import ConfigError
from fwt.tasks.datasets import images
from tests.cli_tools import ROOT, TINY, clean_environment, good, refused
from tests.conftest import need

STRINGS = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
DIGITS = ROOT / "checkpoints" / "mnist-glimpse-fast-weights-r50"
GLIMPSES = ("--task", "mnist-glimpse", "--backend", "numpy", "--set")
BUNDLED = (*GLIMPSES, "task.dataset=mnist-subset")
UNREAD = ("--data-dir: expected none", "reads no files", "got data_dir=", "leave it out")
SWEEP = """name = "s"
task = "mnist-glimpse"
backend = "numpy"
[base]
"task.dataset" = "mnist-subset"
[axes]
seed = "0-1"
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    clean_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("folder", ["missing", "."])
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("train", *BUNDLED), "kind=mnist-glimpse, dataset=mnist-subset"),
        (("train", *TINY, "--backend", "numpy"), "kind=retrieval"),
        (("data", "mnist-glimpse", "--dataset", "mnist-subset"), "dataset=mnist-subset"),
        (("data", "retrieval"), "kind=retrieval"),
        (("eval", DIGITS, "--dataset", "mnist-subset"), "dataset=mnist-subset"),
        (("eval", STRINGS), "kind=retrieval"),
        (("verify", STRINGS), "kind=retrieval"),
        (("gradients", STRINGS, "-q"), "kind=retrieval"),
        (("sweep", "s.toml", "--dry-run"), "dataset=mnist-subset"),
    ],
)
def test_a_folder_that_nothing_reads_is_refused(words, what, folder, tmp_path):
    (tmp_path / "s.toml").write_text(SWEEP)
    refused(2, (*UNREAD, what, folder), *words, "--data-dir", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize("dataset", ["auto", "mnist", "fashion-mnist", "kmnist", "emnist-digits"])
def test_a_folder_without_the_set_is_refused(dataset, tmp_path):
    train = ("train", *GLIMPSES, f"task.dataset={dataset}")
    name = "mnist" if dataset == "auto" else dataset
    missing = (f"dataset '{name}'", "missing", "got 'No such file or directory'")
    refused(4, missing, *train, "--data-dir", "missing")
    refused(4, (f"dataset '{name}'", "found none of that name"), *train, "--data-dir", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_images_have_no_other_folder_in_python(tmp_path):
    with pytest.raises(ConfigError, match="'mnist-subset': expected no folder, because it is bun"):
        images("mnist-subset", tmp_path)
    for spec in ({"kind": "retrieval"}, {"kind": "mnist-glimpse", "dataset": "mnist-subset"}):
        with pytest.raises(ConfigError, match="reads no files, got data_dir="):
            tasks.load(tasks.parse(spec), tmp_path)


def test_the_variable_is_for_tasks_that_read_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FWT_DATA_DIR", "~/missing")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        "mnist-subset: 4,000 train"
        in good("data", "mnist-glimpse", "--dataset", "mnist-subset", "--show", 0).out
    )
    good("data", "retrieval", "--show", 0)
    words = ("'mnist'", str(tmp_path / "missing"), "No such file or directory")
    refused(4, words, "data", "mnist-glimpse", "--dataset", "mnist")


def test_of_several_tasks_those_that_read_files_get_the_folder(tmp_path):
    images, strings = (tasks.parse({"kind": kind}) for kind in ("mnist-glimpse", "retrieval"))
    bundled = tasks.parse({"kind": "mnist-glimpse", "dataset": "mnist-subset"})
    known = [strings, images, bundled]
    assert [folder_for(spec, tmp_path, known) for spec in known] == [None, tmp_path, None]
    none = [strings, bundled]
    assert [folder_for(spec, tmp_path, none) for spec in none] == [tmp_path, tmp_path]
    with pytest.raises(ConfigError, match="reads no files"):
        load(strings, tmp_path, none)


def test_a_run_of_a_table_is_given_the_folder_only_if_it_reads_it(tmp_path):
    from fwt.reproduce.run import Reproduction, Wanted, Where

    def folders(task: str) -> set[Path | None]:
        where = Where("cpu", tmp_path, tmp_path, tmp_path / "runs")
        found = Reproduction(Wanted(task), where, Cluster(None, 1, 1, 0, 0.0))
        return {run.job.data_dir for run in found.runs() if run.job is not None}

    assert folders("retrieval") == {None}
    assert folders("mnist-glimpse") == {tmp_path.resolve()}


def test_a_table_of_runs_that_read_nothing_refuses_a_folder(tmp_path):
    words = ("reproduce", "retrieval", "--quick", "--runs-dir", "r", "-q")
    need("torch")
    refused(2, (*UNREAD, "kind=retrieval"), *words, "--data-dir", tmp_path)
