"""Checkpoints and run folders that are damaged, killed half way, or made to write elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fwt.fwcore.errors import CheckpointError, FileError
from fwt.fwcore.storage import checkpoint, foreign
from fwt.fwcore.storage.checkpoint import Progress
from fwt.fwcore.storage.runs import RunFolder, find_checkpoint
from fwt.reproduce import summary
from tests.cli_tools import clean_environment, fwt, snapshot
from tests.fuzz import samples
from tests.fuzz.tree import put, tree_of

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(name="run")
def _run(tmp_path):
    put(tmp_path / "run", samples.run())
    return tmp_path / "run"


@pytest.fixture(name="point")
def _point(tmp_path):
    put(tmp_path / "point", samples.layout("fwt", "fast-weights"))
    return tmp_path / "point"


@pytest.fixture(name="outside")
def _outside(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path / "outside"


# --- checkpoints ---------------------------------------------------------------------------


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_bit_of_a_model_file_alone_is_seen(point):
    alone = Path(shutil.copy(point / "model.safetensors", point.parent / "alone.safetensors"))
    size = alone.stat().st_size
    for at in (size - 4, size - 400):  # low bits of weights: finite numbers still
        _flip(alone, at)
        with pytest.raises(CheckpointError, match="as the file itself says"):
            checkpoint.read(alone)
        _flip(alone, at)
    checkpoint.read(alone)


def test_a_label_that_is_not_known_is_refused(point):
    arrays, labels = checkpoint.read_tensors(point / "model.safetensors")
    content = safetensors.numpy.save(arrays, metadata=labels | {"fwt.sha257": "0"})
    (point / "alone").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"unknown label 'fwt\.sha257'"):
        checkpoint.read_tensors(point / "alone")


def test_a_file_without_a_digest_is_read_as_before(tmp_path):
    """Files of before the digest, and of other programs."""
    content = safetensors.numpy.save({"a": np.ones(3, np.float32)}, metadata={"other": "label"})
    (tmp_path / "file").write_bytes(content)
    arrays, labels = checkpoint.read_tensors(tmp_path / "file")
    assert (arrays["a"].tolist(), labels) == ([1.0, 1.0, 1.0], {"other": "label"})


def test_a_name_that_stands_twice_is_refused(tmp_path):
    content = safetensors.numpy.save({"a": np.ones(1, np.float32)})
    length = int.from_bytes(content[:8], "little")
    about = content[8 : 8 + length].decode().strip()[1:-1]
    header = f"{{{about}, {about}}}".encode()
    data = len(header).to_bytes(8, "little") + header + content[8 + length :]
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CheckpointError, match="'a' stands twice"):
        checkpoint.read_tensors(tmp_path / "file")


@pytest.mark.parametrize("layout", ["torch", "mlx"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_converted_folder_is_held_to_its_hashes(layout, name, tmp_path):
    folder = tmp_path / "there"
    put(folder, samples.layout(layout))
    other = samples.checkpoint_of("lstm")
    changed = {key: array + 1 for key, array in (other.moments or {}).items()}
    params = {key: array + 1 for key, array in other.params.items()}
    again = checkpoint.Checkpoint(other.spec, params, changed, other.progress, folder)
    foreign.save(tmp_path / "other", again, layout)
    shutil.copy(tmp_path / "other" / name, folder / name)  # a good file, of another checkpoint
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        foreign.load(folder)


def test_a_state_of_another_run_is_refused(point):
    """Where `state.json` is of a version that had no digest of its own."""
    state = json.loads((point / "state.json").read_text())
    del state["sha256"]["state.json"]
    (point / "state.json").write_text(json.dumps(state))
    checkpoint.read(point)
    state["spec"]["train"]["lr"] = 0.5
    (point / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="different specs"):
        checkpoint.read(point)


# --- run folders ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {"sessions": 3}),
        ("run.json", {"sessions": [{"argv": 3}]}),
        ("run.json", {"sessions": [{"argv": [["x"]]}]}),
        ("run.json", {"sessions": ["x"]}),
        ("DONE", {"test": 3}),
        ("DONE", {"best_step": 2}),
    ],
)
def test_notes_of_a_run_that_are_none_are_refused(name, content, run):
    (run / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        summary.of_folder(run)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b'{"step": "x", "split": "val", "elapsed_s": 1}',
        b'{"split": "val", "elapsed_s": 1}',
        b'{"step": 2, "split": "val", "loss": 1.0}',
        b'{"step": 2, "split": "val", "elapsed_s": 1, "loss": NaN}',
        DEEP.encode(),
    ],
    ids=["bytes", "type", "step", "time", "nan", "deep"],
)
def test_metrics_that_are_none_are_refused_by_name(line, run):
    pytest.importorskip("matplotlib")
    from fwt.plots.curves import metrics

    good = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(line + b"\n" + good)
    with pytest.raises(FileError, match=r"metrics\.jsonl"):
        metrics(RunFolder.open(run))
    (run / "metrics.jsonl").write_bytes(good)
    assert len(metrics(RunFolder.open(run))) == len(samples.LINES)


def _save(run: Path) -> None:
    still = samples.model_of()
    with RunFolder.open(run) as folder:
        progress = folder.restore(still)
        folder.append_metrics({"step": 4, "split": "train"})
        folder.save(still, samples.spec(), progress.model_copy(update={"step": 4}))


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "checkpoints"])
def test_a_run_whose_files_are_elsewhere_is_not_written(name, run, outside):
    target = outside / ("kept" if name != "checkpoints" else "points")
    if name == "checkpoints":
        (run / name).rename(target)
    else:
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    before = snapshot(outside)
    with pytest.raises(FileError, match="is a link"):
        _save(run)
    assert snapshot(outside) == before


@pytest.mark.parametrize("name", [".last.partial", ".best.partial", ".metrics.jsonl.partial"])
def test_a_link_where_a_file_is_first_written_is_not_followed(name, run, outside):
    (run / name).symlink_to(outside / "kept")
    _save(run)
    assert snapshot(outside) == {"kept": b"kept"}
    assert (run / "last").read_text() == "step-00000004\n"


def test_a_run_killed_before_its_spec_was_whole_can_be_begun_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".spec.json.partial").write_text('{"format_ver')
    assert RunFolder.create(run, samples.spec()).read_spec() == samples.spec()
    assert list(snapshot(run)) == ["spec.json"]


def test_a_checkpoint_killed_between_two_renames_is_found_and_put_back(run):
    """The old one lies beside its name, the new one was never renamed into it."""
    points = run / "checkpoints"
    name = (run / "last").read_text().strip()
    whole = tree_of(points / name)
    (points / name).rename(points / f".{name}.old")
    (points / f".{name}.partial").mkdir()
    (points / ".step-00000002.old").mkdir()  # of a process killed before it removed it
    assert find_checkpoint(points / name).progress.step == 3
    (run / "best").unlink()
    assert find_checkpoint(run).progress.step == 3
    assert not (points / name).exists()  # a reader changes nothing
    with RunFolder.open(run) as folder:
        assert folder.restore(samples.model_of()).step == 3
    assert tree_of(points / name) == whole
    assert sorted(path.name for path in points.iterdir()) == ["step-00000002", name]


def test_an_old_checkpoint_that_is_the_only_one_outlives_a_new_write(point, monkeypatch):
    old = point.with_name(".point.old")
    point.rename(old)
    found = checkpoint.read(point)

    def fails(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "rename", fails)
        with pytest.raises(FileError):
            checkpoint.write(point, found.spec, found.params, found.moments, Progress(step=9))
    assert checkpoint.read(point).progress == found.progress
    checkpoint.write(point, found.spec, found.params, found.moments, Progress(step=9))
    assert checkpoint.read(point).progress.step == 9
    assert not old.exists()


def test_a_checkpoint_may_be_the_folder_one_is_in(point, monkeypatch):
    monkeypatch.chdir(point)
    assert find_checkpoint(Path()).progress.step == checkpoint.read(point).progress.step == 2


def test_a_damaged_run_ends_a_command_with_one_line(run):
    (run / "best").write_text("../../outside\x1b[31m")
    done = fwt("predict", run, "c9k8??c")
    assert done.code == 4
    assert done.errors[0].isprintable()
    assert len(done.err.splitlines()) == 1
    assert "expected a name like step-00000100" in done.err
