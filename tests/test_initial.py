"""Runs that begin with the weights of a checkpoint, of fwt or foreign, and what says so."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fwt.fwcore import model
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, foreign, layouts
from fwt.fwcore.storage.checkpoint import MODEL_FILE
from fwt.fwcore.storage.runs import RunFolder, default_path
from tests.cli_tools import TINY, clean_environment, good, refused, snapshot

TRAIN = ("train", *TINY, "--backend", "torch", "--quiet")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(scope="module", name="source")
def _source(tmp_path_factory):
    """A run that is done."""
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        folder = tmp_path_factory.mktemp("runs") / "source"
        good(*TRAIN, "--seed", 7, "--out", folder)
    return folder


def spec_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "spec.json").read_text())


def best(run: Path) -> checkpoint.Checkpoint:
    found = RunFolder(run).best()
    assert found is not None
    return checkpoint.read(found)


def first(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.read(RunFolder(run).checkpoint_of(0))


def same(have: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert have.keys() == want.keys()
    assert all(np.array_equal(have[name], want[name]) for name in want)


def native(source: Path, layout: str) -> dict[str, np.ndarray]:
    """The weights of a run's best step in the names and axes of a framework."""
    found = best(source)
    table = model.parameters(found.spec.model)
    return layouts.export(table, found.spec.model.core.kind, found.params, layout)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_new_run_begins_with_the_weights_and_nothing_else(backend, source, tmp_path):
    run = tmp_path / "run"
    begin = ("train", *TINY, "--keep", 9, "--init-from", source, "--backend", backend, "--quiet")
    good(*begin, "--stop-after", 2, "--out", run)
    found = first(run)
    same(found.params, best(source).params)
    assert found.moments is not None
    assert not any(moment.any() for moment in found.moments.values())
    assert (found.progress.step, found.progress.best) == (0, None)
    shutil.move(source, tmp_path / "away")  # it has a checkpoint of its own
    try:
        good("train", "--resume", run, "--backend", backend, "--quiet")
    finally:
        shutil.move(tmp_path / "away", source)
    good(*begin, "--out", tmp_path / "whole")
    same(
        checkpoint.read(RunFolder(run).checkpoint_of(6)).params,
        checkpoint.read(RunFolder(tmp_path / "whole").checkpoint_of(6)).params,
    )


def test_the_spec_and_the_notes_say_where_the_weights_came_from(source, tmp_path):
    run = tmp_path / "run"
    good(*TRAIN, "--init-from", source, "--out", run)
    point = best(source).path
    digest = hashlib.sha256((point / MODEL_FILE).read_bytes()).hexdigest()
    init = {"path": str(point), "layout": None, "sha256": digest}
    assert spec_of(run) == {**spec_of(source), "train": spec_of(run)["train"], "init": init}
    assert json.loads((run / "run.json").read_text())["sessions"][0]["init"] == init
    again = tmp_path / "again"
    good("train", "--config", run / "spec.json", "--backend", "torch", "--quiet", "--out", again)
    same(best(again).params, best(run).params)


def test_the_hash_is_of_the_weights_and_not_of_their_place(source, tmp_path):
    copy = Path(shutil.copytree(best(source).path, tmp_path / "copy"))
    drawn, *begun = (
        RunSpec.parse(good(*TRAIN, *more, "--dry-run").json, "spec")
        for more in ((), ("--init-from", source), ("--init-from", copy))
    )
    assert drawn.init is None
    assert "init" not in drawn.json_data()
    assert begun[0].run_digest() == begun[1].run_digest() != drawn.run_digest()
    names = {default_path(tmp_path, spec, "fast-weights", "torch") for spec in (drawn, *begun)}
    assert len(names) == 2


@pytest.mark.parametrize("kind", ["pt", "safetensors", "npz", "model file", "converted"])
def test_foreign_files_and_model_files(kind, source, tmp_path):
    layout: tuple[str, ...] = ("--init-layout", "mlx" if kind == "npz" else "torch")
    path = tmp_path / f"weights.{kind}"
    if kind == "pt":
        arrays = native(source, "torch")
        torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path)
    elif kind == "safetensors":
        checkpoint.write_tensors(path, native(source, "torch"), {})
    elif kind == "npz":
        np.savez(path, **native(source, "mlx"))
    elif kind == "model file":
        path, layout = best(source).path / MODEL_FILE, ()
    else:
        path, layout = tmp_path / "there", ()
        foreign.save(path, best(source), "mlx")
    if layout:
        words = ["which layout is it?", "--init-layout"]
        refused(2, words, *TRAIN, "--init-from", path, "--out", tmp_path / "none")
    good(*TRAIN, "--keep", 9, "--init-from", path, *layout, "--out", tmp_path / "run")
    same(first(tmp_path / "run").params, best(source).params)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("seeds", [("--seed", 0), ("--seeds", "0-1")])
def test_what_was_changed_in_foreign_weights_is_said_and_kept(seeds, source, tmp_path):
    small = {name: torch.tensor(array).bfloat16() for name, array in native(source, "fwt").items()}
    torch.save({f"_orig_mod.{name}": value for name, value in small.items()}, tmp_path / "w.pt")
    begin = (*TRAIN[:-1], "--keep", 9, "--init-from", tmp_path / "w.pt", "--init-layout", "fwt")
    done = good(*begin, *seeds, "--out", tmp_path / "run")
    notes = [f"bfloat16 read as float32: {len(small)} of {len(small)} arrays"]
    notes.append(f"'_orig_mod' left out of names: {len(small)} of {len(small)}")
    assert [line for line in done.err.splitlines() if line.startswith("weights")] == [
        f"weights   {note}" for note in notes
    ]
    for run in [tmp_path / "run"] if seeds[0] == "--seed" else (tmp_path / "run").iterdir():
        same(first(run).params, {name: value.float().numpy() for name, value in small.items()})
        assert json.loads((run / "run.json").read_text())["sessions"][0]["init"]["notes"] == notes
    quiet = good(*begin, *seeds, "--quiet", "--out", tmp_path / "quiet")
    assert "weights" not in quiet.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--size", 5), ["--init-from", "'core.w' has shape (4, 4), expected (5, 5)", "--size 4"]),
        (("--model", "lstm"), ["missing 'core.wx'", "extra 'core.w'", "--model fast-weights"]),
    ],
)
def test_weights_of_another_model_are_refused_in_one_line(more, words, source, tmp_path):
    refused(4, words, *TRAIN, "--init-from", source, *more, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_checkpoint_is_refused(source, tmp_path):
    into = ("--out", tmp_path / "run")
    refused(4, ["no such file"], *TRAIN, "--init-from", tmp_path / "nowhere", *into)
    refused(2, ["'pth'", "did you mean 'path'"], *TRAIN, "--set", "init.pth=x", *into)
    refused(
        2,
        ["init: layout", "layout='keras'"],
        *TRAIN,
        "--init-from",
        source,
        "--init-layout",
        "keras",
    )
    other = "0f" * 32
    words = ["expected the weights of", other[:16], "got"]
    refused(2, words, *TRAIN, "--init-from", source, "--set", f"init.sha256={other}", *into)
    assert not (tmp_path / "run").exists()
    before = snapshot(source)
    words = ["--init-from", "--resume", "leave one of the two out"]
    refused(2, words, "train", "--resume", source, "--init-from", source)
    assert snapshot(source) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_reads_the_same_weights(source, tmp_path):
    point = Path(shutil.copytree(best(source).path, tmp_path / "point"))
    spec = RunSpec.parse(good(*TRAIN, "--init-from", point, "--dry-run").json, "spec")
    good(*TRAIN, "--init-from", point, "--out", tmp_path / "whole")
    for name in ("killed", "changed"):
        RunFolder.create(tmp_path / name, spec)
    good("train", "--resume", tmp_path / "killed", "--backend", "torch", "--quiet")
    same(best(tmp_path / "killed").params, best(tmp_path / "whole").params)
    shutil.rmtree(point)
    foreign.save(point, best(tmp_path / "whole"), "fwt")
    words = ["point", "expected the weights of sha256=", "the run was planned with others"]
    refused(2, words, "train", "--resume", tmp_path / "changed", "--backend", "torch")


def test_each_run_of_a_list_begins_with_them(source, tmp_path):
    good(*TRAIN, "--keep", 9, "--init-from", source, "--seeds", "0-1", "--out", tmp_path / "p")
    runs = sorted((tmp_path / "p").iterdir())
    assert len(runs) == 2
    for run in runs:
        same(first(run).params, best(source).params)
    assert not np.array_equal(best(runs[0]).params["core.w"], best(runs[1]).params["core.w"])
