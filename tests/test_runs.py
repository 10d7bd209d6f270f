"""The run folder: pointers, pruning, metrics on resume, one writer, and damaged notes."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from fwt.fwcore.errors import CheckpointError, ConfigError, DivergedError, FileError
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.checkpoint import Progress
from fwt.fwcore.storage.runs import RunFolder, default_path, find_checkpoint
from tests.cli_tools import snapshot
from tests.faulty import Faulty
from tests.small_run import SPEC, Model, line, progress, save, saved_steps
from tests.tolerances import assert_same


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return RunFolder.create(tmp_path / "run", SPEC)


def metrics(folder: RunFolder) -> list[tuple[int, str]]:
    text = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["split"]) for row in map(json.loads, text)]


# --- creating and opening -----------------------------------------------------------------


def test_the_default_folder_names_what_is_learned(tmp_path):
    path = default_path(tmp_path, SPEC, "fast-weights", "mlx")
    digest = SPEC.run_digest()
    assert path == tmp_path / "retrieval" / f"fast-weights-R3-{digest}-s9-mlx"
    train = SPEC.train.model_copy(update={"seed": 4})
    other_seed = SPEC.model_copy(update={"train": train})
    assert other_seed.run_digest() == digest
    train = SPEC.train.model_copy(update={"lr": 0.5})
    assert SPEC.model_copy(update={"train": train}).run_digest() != digest


def test_a_new_run_holds_its_spec(folder):
    assert folder.read_spec() == SPEC
    assert RunFolder.open(folder.path).read_spec() == SPEC
    assert (folder.latest(), folder.best(), folder.latest_step()) == (None, None, None)
    assert list(snapshot(folder.path)) == ["spec.json"]


def test_a_folder_that_holds_anything_is_refused_and_untouched(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = snapshot(tmp_path)
    for name, kind in (("used", "a folder that holds something else"), ("file", "a file")):
        with pytest.raises(ConfigError, match=f"{name} exists: expected .* got {kind}; choose"):
            RunFolder.create(tmp_path / name, SPEC)
    assert snapshot(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", SPEC).read_spec() == SPEC


def test_a_folder_that_cannot_hold_its_spec_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Faulty(os.fsync, 1, after=False))
    with pytest.raises(FileError, match="No space left"):
        RunFolder.create(tmp_path / "run", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_only_a_run_can_be_opened(tmp_path):
    with pytest.raises(ConfigError, match="no run in"):
        RunFolder.open(tmp_path)
    with pytest.raises(ConfigError, match="no run in"):
        RunFolder.open(tmp_path / "nowhere")


# --- the lock -----------------------------------------------------------------------------


def test_one_writer_at_a_time(folder):
    with folder, pytest.raises(ConfigError, match="in use by another process"):
        RunFolder.open(folder.path).__enter__()
    with RunFolder.open(folder.path):
        pass  # given back


# --- pointers and pruning -----------------------------------------------------------------


def test_pruning_keeps_the_latest_the_best_and_the_last(folder):
    save(folder, 0)
    save(folder, 1, best=1)
    assert saved_steps(folder) == [0, 1]
    for step in (2, 3, 4):
        save(folder, step, best=1)
    assert saved_steps(folder) == [1, 3, 4]
    save(folder, 5, best=5)
    assert saved_steps(folder) == [4, 5]
    assert (folder.latest_step(), folder.load_best().progress.step) == (5, 5)
    for step in (6, 7, 8):
        save(folder, step, best=5, keep=1)
    assert saved_steps(folder) == [5, 8]
    assert_same(
        Model(8).params, find_checkpoint(folder.path / "checkpoints" / "step-00000008").params
    )
    assert find_checkpoint(folder.path).progress.step == 5


def test_pruning_removes_nothing_but_checkpoints(folder):
    (folder.path / "checkpoints" / "my notes").mkdir(parents=True)
    (folder.path / "checkpoints" / "step-1").mkdir()
    for step in range(4):
        save(folder, step, keep=1)
    found = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    assert found == ["my notes", "step-00000003", "step-1"]


@pytest.mark.parametrize(
    "target",
    ["../../elsewhere", "/etc", "step-1", "", "step-00000001/..", "step-00000001\nstep-00000002",
     "step-0000000a", "\x00", "step-00000001x"],
)  # fmt: skip
@pytest.mark.parametrize("pointer", ["best", "last"])
def test_a_pointer_that_names_no_checkpoint_is_refused(pointer, target, folder):
    save(folder, 1, best=1)
    (folder.path / pointer).write_text(target)
    with pytest.raises(CheckpointError, match="expected a name like step-00000100"):
        find_checkpoint(folder.path) if pointer == "best" else folder.restore(Model())


def test_pointers_that_are_no_text(folder):
    save(folder, 1, best=1)
    (folder.path / "best").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="expected a name like"):
        folder.load_best()


def test_a_folder_without_a_best_step_says_so(folder):
    save(folder, 0)
    with pytest.raises(CheckpointError, match="no best checkpoint"):
        folder.load_best()
    assert find_checkpoint(folder.path).progress.step == 0  # the last, then


def test_find_checkpoint_takes_whatever_a_person_names(folder):
    save(folder, 0)
    save(folder, 1, best=1)
    point = folder.path / "checkpoints" / "step-00000000"
    assert find_checkpoint(folder.path).progress.step == 1
    assert find_checkpoint(point).progress.step == 0
    assert_same(Model(0).params, find_checkpoint(point / "model.safetensors").params)


# --- saving -------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_never_saved(folder):
    save(folder, 1)
    model = Model(2)
    model.params["core.w"][0, 0] = np.nan
    before = snapshot(folder.path)
    with pytest.raises(DivergedError, match=r"last good checkpoint is .*step-00000001"):
        folder.save(model, SPEC, progress(2))
    assert snapshot(folder.path) == before


@pytest.mark.parametrize("count", range(1, 5))
def test_a_fault_between_checkpoint_and_pointers_is_mended_by_resuming(count, folder, monkeypatch):
    """The four names given in a save: its state, the checkpoint, `last`, `best`."""
    save(folder, 0)
    save(folder, 1, best=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Faulty(os.replace, count, after=False))
        with pytest.raises(FileError):
            save(folder, 2, best=2)
    model = Model()
    at = folder.restore(model)
    assert at.step == (1 if count < 4 else 2)
    assert at.best is not None
    assert at.best.step == at.step
    assert folder.best() == folder.latest()
    assert folder.load_best().progress.step == at.step
    assert_same(Model(at.step).params, model.params)


# --- resuming -----------------------------------------------------------------------------


def test_a_new_run_starts_at_zero_with_an_untouched_model(folder):
    model = Model(3)
    folder.append_metrics(line(1))  # of a process that died before its first save
    assert folder.restore(model) == Progress()
    assert_same(Model(3).params, model.params)
    assert metrics(folder) == []


def test_restoring_brings_back_weights_moments_and_progress(folder):
    saved = Progress(step=7, unreported=[[1.0, 2.0, 3.0]], elapsed_s=2.5, reported_s=1.5)
    folder.save(Model(7), SPEC, saved)
    model = Model(0)
    at = folder.restore(model)
    assert at == saved
    assert_same(Model(7).params, model.params)
    assert_same(Model(7).moments, model.moments)
    assert model.step == 7
    at.unreported.append([0.0, 0.0, 0.0])  # a copy: nothing else changes
    assert folder.restore(model) == saved


def test_a_checkpoint_without_moments_cannot_be_resumed(folder):
    save(folder, 1)
    point = folder.path / "checkpoints" / "step-00000001"
    shutil.rmtree(point)
    checkpoint.write(point, SPEC, Model(1).params, None, progress(1))
    with pytest.raises(CheckpointError, match="no optimizer state"):
        folder.restore(Model())


def test_metrics_after_the_checkpoint_are_dropped(folder):
    for step in (1, 2, 3):
        folder.append_metrics(line(step))
    folder.append_metrics(line(2, "val"))
    save(folder, 2)
    folder.restore(Model())
    assert metrics(folder) == [(1, "train"), (2, "train"), (2, "val")]
    folder.append_metrics(line(3))
    assert metrics(folder)[-1] == (3, "train")


def test_a_test_line_is_written_once(folder):
    folder.append_metrics(line(2))
    folder.append_metrics(line(2, "test"))  # and then the process died, before DONE
    save(folder, 2)
    folder.restore(Model())
    assert metrics(folder) == [(2, "train")]


@pytest.mark.parametrize("rest", ['{"step": 2, "spl', "{", "\x00\x00", "[1]", "7", '{"a": 1}', "é"])
def test_a_half_written_last_line_does_no_harm(rest, folder):
    folder.append_metrics(line(1))
    folder.append_metrics(line(2))
    save(folder, 2)
    file = folder.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + rest.encode()[:9])
    folder.restore(Model())
    assert metrics(folder) == [(1, "train"), (2, "train")]
    folder.append_metrics(line(3))
    assert metrics(folder)[-1] == (3, "train")


def test_metrics_that_cannot_be_written_are_an_error(folder):
    (folder.path / "metrics.jsonl").mkdir()
    with pytest.raises(FileError, match=r"metrics\.jsonl: cannot be written"):
        folder.append_metrics(line(1))


# --- notes --------------------------------------------------------------------------------


def test_json_files_of_a_run(folder):
    assert folder.read_json("DONE") is None
    folder.finish({"test": 1})
    assert folder.read_json("DONE") == {"test": 1}
    for text in ("{", "[]", "3", ""):
        (folder.path / "DONE").write_text(text)
        with pytest.raises(CheckpointError, match="DONE"):
            folder.read_json("DONE")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format_version": 1}'])
def test_a_damaged_spec_is_refused(text, folder):
    (folder.path / "spec.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"spec\.json"):
        folder.read_spec()


def test_a_spec_of_a_newer_format_is_refused_by_its_number(folder):
    data = {**SPEC.json_data(), "format_version": 7}
    (folder.path / "spec.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="format_version=7 is newer"):
        folder.read_spec()
    assert RunSpec.parse(SPEC.json_data(), "again") == SPEC
