"""Which runs and sweeps are below a path: links, loops, populations, sweeps, for every verb."""

from __future__ import annotations

import json
import shutil

import pytest

from fwt.find import find
from fwt.fwcore.errors import FileError
from tests.cli_tools import TINY, clean_environment, good, refused
from tests.conftest import need

QUICK = ("--hardest", 0, "--backends", "numpy,torch")


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
    """A population of two, and a sweep of theirs, as `fwt sweep` leaves them."""
    need("torch")
    root = tmp_path_factory.mktemp("all")
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        more = ("--backend", "torch", "--quiet", "--eval-every", 3, "--lr", "1e-3,1e-2")
        words = [word for word in TINY if word not in ("--lr", "0.001")]
        good("train", *words, *more, "--out", root / "runs" / "pop")
    runs = [
        {"seed": 0, "run": f"pop/{path.name}", "failure": None}
        for path in sorted((root / "runs" / "pop").iterdir())
    ]
    trial = {"settings": {"lr": 1}, "val_error_pct": 1, "val_error_sd": None, "val_loss": 1}
    group = {"label": "fast-weights R=4", "model": "fast-weights", "fixed": {}, "parameters": 1}
    trials = [{**trial, "runs": [run]} for run in runs]
    group |= {"tried": 2, "chosen": {"lr": 1}, "command": "fwt train", "trials": trials}
    summary = {"format_version": 1, "name": "tiny", "objective": "error", "budget": 2, "seeds": 1}
    summary |= {"sampler": "grid", "task": "retrieval", "backend": "torch", "control": None}
    summary |= {"base": {}, "search": {}, "groups": [group]}
    folder = root / "runs" / "sweeps" / "tiny"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return root


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def test_populations_and_sweeps_are_found_once_and_in_order(root):
    runs = sorted((root / "runs" / "pop").iterdir())
    found = find([root, root / "runs", runs[0]], "plot")
    assert found.runs == runs
    assert found.sweeps == [root / "runs" / "sweeps" / "tiny"]
    assert found.all_runs() == runs
    assert [run.resolve() for run in find(found.sweeps, "plot").all_runs()] == runs


def test_links_are_followed_and_loops_end(root, tmp_path):
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "pop").symlink_to(root / "runs" / "pop")
    (tmp_path / "rl" / "again").symlink_to(root / "runs" / "pop")
    (tmp_path / "rl" / "back").symlink_to(tmp_path)
    (tmp_path / "rl" / "nowhere").symlink_to(tmp_path / "gone")
    names = [path.name for path in sorted((root / "runs" / "pop").iterdir())]
    found = find([tmp_path / "rl"], "plot").runs
    assert [path.name for path in found] == names
    assert {path.resolve().parent for path in found} == {root / "runs" / "pop"}


def test_a_run_that_is_a_link_is_found_and_checkpoints_are_no_runs(root, tmp_path):
    (run, _) = sorted((root / "runs" / "pop").iterdir())
    (tmp_path / "one").symlink_to(run)
    assert find([tmp_path], "plot").runs == [tmp_path / "one"]
    copy = shutil.copytree(run, tmp_path / "copy")
    checkpoint = next((copy / "checkpoints").iterdir())
    shutil.copy(copy / "spec.json", checkpoint)
    assert find([copy], "plot").runs == [copy]


def test_every_verb_finds_the_same(root, tmp_path):
    pytest.importorskip("matplotlib")
    for path in (root / "runs" / "pop", root / "runs" / "sweeps" / "tiny", root):
        out = tmp_path / "x.svg"
        plotted = good("plot", path, "-o", out, "--json").json
        assert [curve["seeds"] for curve in plotted["curves"]] == [[0], [0]]
        page = tmp_path / "x.html"
        told = good("report", path, *QUICK, "-o", page, "--json").json
        assert len(told["runs"]) == (0 if path.name == "tiny" else 2)
        assert len(told["sweeps"]) == (0 if path.name == "pop" else 1)
        more = ("--backend", "torch", "--examples", 2, "--jacobians", 1, "--json", "--quiet")
        networks = good("gradients", path, *more).json["networks"]
        assert [each["weights"] for each in networks] == ["trained", "trained"]


def test_rows_of_runs_that_differ_in_a_setting_are_told_apart(root, tmp_path):
    page = tmp_path / "x.html"
    told = good("report", root / "runs" / "pop", *QUICK, "-o", page, "--json").json
    assert sorted(run["apart"] for run in told["runs"]) == [["lr=0.001"], ["lr=0.01"]]
    for words in ('<td data-of="apart">lr=0.01</td>', "seed 0, torch, lr=0.01"):
        assert words in page.read_text()


def test_what_holds_no_run_or_cannot_be_read_is_named(root, tmp_path, monkeypatch):
    for verb, more in (("plot", ()), ("report", ()), ("gradients", ("--quiet",))):
        refused(4, (f"{verb}: {tmp_path}: neither a run nor a sweep",), verb, tmp_path, *more)
    for verb in ("plot", "report"):
        refused(4, (f"{verb}: {tmp_path / 'no'} cannot be read: No such",), verb, tmp_path / "no")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(FileError, match=f"plot: {root} cannot be read: Permission denied"):
        find([root], "plot")
