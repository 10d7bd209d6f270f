"""What damaged checkpoints, data, folders and disks get from `fwt`: one line, nothing lost."""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.runs import RunFolder
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
from tests.conftest import light, need

Tensors = dict[str, np.ndarray]
Labels = dict[str, str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)
    need("torch")


# --- damaged checkpoints ------------------------------------------------------------------


def rewrite(
    folder: Path,
    change: Callable[[Tensors, Labels], None],
    name: str = checkpoint.MODEL_FILE,
) -> None:
    """Change a tensor file and the hash of it, so that only its content is wrong."""
    arrays, labels = checkpoint.read_tensors(folder / name)
    change(arrays, labels)
    solid = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    safetensors.numpy.save_file(solid, folder / name, metadata=labels)
    state = json.loads((folder / checkpoint.STATE_FILE).read_text())
    state["sha256"][name] = checkpoint.sha256(folder / name)
    del state["sha256"][checkpoint.STATE_FILE]
    (folder / checkpoint.STATE_FILE).write_text(json.dumps(state))


def transposed(arrays: Tensors, labels: Labels) -> None:
    arrays["core.c"] = arrays["core.c"].T


def renamed(arrays: Tensors, labels: Labels) -> None:
    arrays["core.q"] = arrays.pop("core.w")


def half(arrays: Tensors, labels: Labels) -> None:
    arrays["core.w"] = arrays["core.w"].astype(np.float16)


def holed(arrays: Tensors, labels: Labels) -> None:
    arrays["core.w"][1, 2] = np.nan


def cut(arrays: Tensors, labels: Labels) -> None:
    arrays["core.w"] = arrays["core.w"][:3]


def newer(arrays: Tensors, labels: Labels) -> None:
    labels["fwt.format_version"] = "99"


def nameless(arrays: Tensors, labels: Labels) -> None:
    del labels["fwt.spec"]


def turned_mlx(arrays: Tensors, labels: Labels) -> None:
    labels["fwt.layout"] = "mlx"


CONTENT: list[tuple[Callable[[Tensors, Labels], None], list[str]]] = [
    (transposed, ["'core.c' has shape (100, 4), expected (4, 100)", "transposed?"]),
    (renamed, ["missing 'core.w'", "extra 'core.q'"]),
    (half, ["'core.w' has type float16", "expected float32"]),
    (holed, ["'core.w'", "not finite"]),
    (cut, ["'core.w' has shape (3, 4), expected (4, 4)"]),
    (turned_mlx, ["layout='mlx'", "fwt convert"]),
]


@pytest.mark.parametrize(("change", "words"), CONTENT)
def test_wrong_content_is_refused_in_a_folder_and_in_a_file(change, words, point):
    rewrite(point, change)
    refused(4, words, "eval", point, "--backend", "numpy")
    refused(4, words, "eval", point / "model.safetensors", "--backend", "numpy")
    refused(4, words, "verify", point)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (newer, ["format_version=99", "newer", "upgrade fwt"]),
        (nameless, ["does not say which model", "--spec"]),
    ],
)
def test_a_model_file_that_says_the_wrong_thing_of_itself(change, words, point):
    rewrite(point, change)
    refused(4, words, "eval", point / "model.safetensors", "--backend", "numpy")


def test_all_faults_of_a_file_come_in_one_line(point):
    def several(arrays: Tensors, labels: Labels) -> None:
        for change in (transposed, renamed):
            change(arrays, labels)
        arrays["head.output.bias"] = arrays["head.output.bias"].astype(np.int64)

    rewrite(point, several)
    words = ["missing 'core.w'", "extra 'core.q'", "'core.c' has shape", "has type int64"]
    refused(4, words, "eval", point, "--backend", "numpy")


def test_moments_are_held_to_the_spec_too(run, tmp_path):
    def wrong(arrays: Tensors, labels: Labels) -> None:
        del arrays["m.core.w"]
        arrays["x.core.w"] = arrays["v.core.w"]
        arrays["v.core.c"] = arrays["v.core.c"].T

    rewrite(run / "checkpoints" / "step-00000002", wrong, checkpoint.OPTIMIZER_FILE)
    before = snapshot(run)
    words = ["missing 'm.core.w'", "extra 'x.core.w'", "'v.core.c' has shape", "optimizer"]
    refused(4, words, "train", "--resume", run, "--backend", "torch")
    after = snapshot(run)
    assert {name for name in before if before[name] != after[name]} <= {"run.json"}


def damage_of(kind: str, point: Path) -> tuple[str, ...]:
    """Break a checkpoint folder in one way; the words that its refusal must have."""
    model, state = point / checkpoint.MODEL_FILE, point / checkpoint.STATE_FILE
    whole = model.read_bytes()
    if kind == "truncated":
        model.write_bytes(whole[: len(whole) // 2])
        return ("model.safetensors", "truncated or damaged")
    if kind == "empty file":
        model.write_bytes(b"")
        return ("model.safetensors", "truncated or damaged")
    if kind == "changed":
        model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        return ("expected sha256=", "the file was changed")
    if kind == "pickle":
        model.write_bytes(pickle.dumps({"a": 1}))
        return ("pickle", "never loaded")
    if kind == "zip":
        model.write_bytes(b"PK\x03\x04 as torch.save writes")
        return ("pickle or zip", "never loaded")
    if kind == "newer":
        state.write_text(state.read_text().replace('"format_version": 1', '"format_version": 2'))
        return ("format_version=2", "newer", "upgrade fwt")
    if kind == "state":
        state.write_text('{"format_version": 1, ')
        return ("state.json", "cannot be read")
    if kind == "state list":
        state.write_text("[]")
        return ("state.json", "expected a JSON object")
    if kind == "state key":
        data = json.loads(state.read_text())
        state.write_text(json.dumps({**data, "progres": data.pop("progress")}))
        return ("unknown key 'progres'", "mean 'progress'")
    if kind == "no model":
        model.unlink()
        return ("neither a checkpoint nor a run with one",)
    if kind == "no state":
        state.unlink()
        return ("state.json", "cannot be read")
    if kind == "no moments":
        (point / checkpoint.OPTIMIZER_FILE).unlink()
        return ("optimizer.safetensors", "no such file")
    raise ValueError(kind)


KINDS = (
    "truncated", "empty file", "changed", "pickle", "zip", "newer", "state", "state list",
    "state key", "no model", "no state", "no moments",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_refused(kind, point):
    words = damage_of(kind, point)
    refused(4, words, "eval", point, "--backend", "numpy")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no model"])
def test_a_damaged_checkpoint_is_not_resumed(kind, run):
    words = damage_of(kind, run / "checkpoints" / "step-00000002")
    before = snapshot(run)
    refused(4, words, "train", "--resume", run, "--backend", "torch")
    after = snapshot(run)
    assert {name for name in after if before.get(name) != after[name]} == {"run.json"}


def test_an_empty_folder_and_a_lone_pointer(tmp_path, run):
    (tmp_path / "empty").mkdir()
    refused(4, ["neither a checkpoint nor a run"], "eval", tmp_path / "empty")
    refused(2, ["no run in"], "train", "--resume", tmp_path / "empty")
    shutil.rmtree(run / "checkpoints")
    refused(4, ["step-00000002", "no such file"], "eval", run)
    (run / "last").write_text("../../etc\n")
    (run / "best").unlink(missing_ok=True)
    refused(4, ["expected a name like step-00000100", "'../../etc'"], "eval", run)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, finished):
    import torch

    marker, source, target = tmp_path / "ran", tmp_path / "evil.pt", tmp_path / "there"
    convert = ("convert", source, target, "--to", "fwt", "--from", "torch", "--spec")
    spec = finished / "spec.json"
    torch.save({"core.w": Evil(marker)}, source)
    refused(4, ["evil.pt", "refused"], *convert, spec)
    source.write_bytes(pickle.dumps({"core.w": Evil(marker)}))
    refused(4, ["evil.pt", "refused"], *convert, spec)
    disguised = tmp_path / "evil.safetensors"
    shutil.copy(source, disguised)
    refused(4, ["pickle", "never loaded"], "eval", disguised)
    refused(4, ["pickle", "never loaded"], "convert", disguised, target, "--to", "torch")
    assert not marker.exists()
    assert not target.exists()
    pickle.loads(source.read_bytes())  # it would have run
    assert marker.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"PK\x03\x04broken"])
def test_files_that_are_no_weights(content, tmp_path, finished):
    for suffix in (".pt", ".npz", ".safetensors"):
        source, target = tmp_path / f"file{suffix}", tmp_path / "there"
        source.write_bytes(content)
        spec = ("--from", "torch", "--spec", finished / "spec.json")
        refused(4, [source.name], "convert", source, target, "--to", "fwt", *spec)
        assert not target.exists()


# --- data ---------------------------------------------------------------------------------


def test_data_folders_that_will_not_do(tmp_path, monkeypatch):
    run, folder = tmp_path / "run", tmp_path / "data"
    train = ("train", "--task", "mnist-glimpse", "--dataset", "mnist", "--out", run)
    refused(4, ["'mnist'", "data", "--data-dir"], *train, "--data-dir", folder)
    folder.write_text("a file where a folder is meant")
    refused(4, ["can be read", "--data-dir"], *train, "--data-dir", folder)
    folder.unlink()
    folder.mkdir()
    half_there = folder / "train-images-idx3-ubyte"
    with half_there.open("wb") as file:  # the size and shape of MNIST, all black
        file.write(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (60_000, 28, 28)))
        file.truncate(16 + 60_000 * 784)
    words = ["expected train-labels-idx1-ubyte", "t10k-images", "--data-dir"]
    refused(4, words, *train, "--data-dir", folder)
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).write_bytes(b"")
    words = ["train-images-idx3-ubyte", "expected md5 6bbc9ace898e44ae57da46a324031adb", "got md5="]
    refused(4, words, *train, "--data-dir", folder)
    monkeypatch.setenv("FWT_DATA_DIR", str(folder))
    refused(4, words, *train)
    monkeypatch.delenv("FWT_DATA_DIR")
    cached = tmp_path / "cache" / "fwt" / "datasets" / "MNIST" / "raw"
    cached.mkdir(parents=True)
    half_there.rename(cached / half_there.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(4, ["not in", "FWT_OFFLINE=1 forbids downloading", "mnist-subset"], *train)
    assert not run.exists()


def test_the_subset_is_announced_in_one_line_and_in_the_result(tmp_path):
    arguments = ("data", "mnist-glimpse", "--show", 0, "--json")
    code = "import sys\nfrom fwt.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = python(code, *arguments, **home)
    assert done.code == 0
    assert done.json["dataset"] == "mnist-subset"
    (line,) = done.err.splitlines()
    assert line.startswith("warning: dataset=auto: using the bundled mnist-subset")
    assert "do not compare with published" in line


# --- folders and disks --------------------------------------------------------------------


def test_an_out_folder_that_holds_something_is_not_touched(finished, tmp_path):
    before = snapshot(finished)
    words = ["exists", f"--resume {finished}", "--out"]
    refused(2, words, "train", *TINY, "--backend", "torch", "--out", finished)
    assert snapshot(finished) == before
    file = tmp_path / "file"
    file.write_text("kept")
    refused(2, ["exists"], "train", *TINY, "--backend", "torch", "--out", file)
    assert file.read_text() == "kept"


def test_an_out_folder_that_cannot_be_written(tmp_path, finished):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file" / "run", Path("/proc/fwt-run")):
        words = [str(out), "cannot be written"]
        refused(4, words, "train", *TINY, "--backend", "torch", "--out", out)
        refused(4, words, "convert", finished, out, "--to", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Every write past `limit` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_checkpoint(run):
    before = snapshot(run)
    with full_disk(10_000):
        done = fwt("train", "--resume", run, "--backend", "torch")
    assert done.code == 4, done
    check_refusal(done, ["step-00000006", "cannot be written", "too large"])
    after = snapshot(run)
    assert after.keys() - before.keys() <= {"metrics.jsonl"}  # nothing half-written
    kept = [name for name in before if name.startswith("checkpoints") or name == "last"]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert good("eval", run, "--backend", "numpy", "--json").json["step"] == 2
    good("train", "--resume", run, "--backend", "torch")  # the disk has room again


@pytest.mark.parametrize("room", [0, 500, 10_000])
def test_a_full_disk_at_the_start(room, tmp_path):
    run = tmp_path / "run"
    with full_disk(room):
        done = fwt("train", *TINY, "--backend", "torch", "--out", run)
    assert done.code == 4, done
    check_refusal(done, ["cannot be written"])
    left = sorted(snapshot(run))
    assert left in ([], ["spec.json"], ["run.json", "spec.json"]), left
    assert room or not run.exists()


def test_a_full_disk_for_convert(finished, tmp_path):
    with full_disk(10_000):
        done = fwt("convert", finished, tmp_path / "there", "--to", "torch")
    assert done.code == 4, done
    check_refusal(done, ["there", "cannot be written"])
    assert list(tmp_path.iterdir()) == []


# --- resuming -----------------------------------------------------------------------------


def test_a_resume_with_another_spec_names_every_difference(run):
    before = snapshot(run)
    words = [
        "has another spec", "task.pairs=4", "task.pairs=5", "model.core.size=4",
        "model.core.size=9", "train.lr=0.001", "train.lr=0.5", "train.seed=0", "train.seed=3",
    ]  # fmt: skip
    changes = ("--pairs", 5, "--size", 9, "--lr", 0.5, "--seed", 3, "--steps", 6)
    done = refused(2, words, "train", "--resume", run, *changes)
    assert "steps" not in done.err  # it agrees
    refused(2, ["kind='fast-weights'", "kind='lstm'"], "train", "--resume", run, "-m", "lstm")
    refused(2, ["'retrieval'", "'mnist-glimpse'"], "train", "--resume", run, *DIGITS[1:])
    refused(2, ["no levels"], "train", "--resume", run, "--control", "multi-level")
    refused(2, ["unknown model 'lstn'"], "train", "--resume", run, "--model", "lstn")
    refused(2, ["is unknown to it"], "train", "--resume", run, "--set", "train.lrr=1")
    refused(2, ["--out"], "train", "--resume", run, "--out", run)
    assert snapshot(run) == before


def test_a_resume_that_repeats_the_spec_goes_on(run, stopped):
    same = (
        "--config",
        stopped / "spec.json",
        *TINY,
        "--model",
        "fast-weights",
        "--control",
        "flat",
    )
    assert good("train", "--resume", run, *same, "--backend", "torch", "--json").json["done"]


def test_a_resumed_digits_run_refuses_another_control(tmp_path):
    run = tmp_path / "run"
    small = ("--size", 2, "--steps", 1, "--set", "model.encoder.size=2")
    train = ("train", *DIGITS[1:], "--dataset", "mnist-subset", *small, "--backend", "torch")
    good(*train, "--stop-after", 1, "--out", run, "--quiet")
    (run / "DONE").unlink()
    refused(2, ["model.core.store=["], "train", "--resume", run, "--control", "flat")


def test_a_run_folder_with_a_damaged_spec(run):
    spec = run / "spec.json"
    whole = spec.read_text()
    resume = ("train", "--resume", run, "--backend", "torch")
    for text, words in (
        ("{", ["spec.json", "cannot be read"]),
        ("[]", ["spec.json", "cannot be read"]),
        (
            whole.replace('"format_version": 1', '"format_version": 2'),
            ["format_version=2", "newer"],
        ),
        (whole.replace('"retrieval"', '"retreival"', 1), ["spec.json"]),
    ):
        spec.write_text(text)
        done = fwt(*resume)
        assert done.code in (2, 4), done
        check_refusal(done, words)


def test_a_finished_run_prints_its_result_again_and_changes_nothing(finished):
    before = snapshot(finished)
    first = json.loads((finished / "DONE").read_text())
    found = good("train", "--resume", finished, "--json").json
    assert {key: found[key] for key in first} == first
    assert found["done"]
    assert (found["model"], found["backend"]) == ("fast-weights", "torch")
    shown = good("train", "--resume", finished).out
    assert f"error {first['test']['error_pct']:.2f}% of 64" in shown
    assert snapshot(finished) == before


def test_damaged_notes_of_a_run(run, finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / "DONE").write_text("{")
    refused(4, ["DONE", "cannot be read"], "train", "--resume", copy)
    (run / "run.json").write_text("[]")
    words = ["run.json", "expected a JSON object"]
    refused(4, words, "train", "--resume", run, "--backend", "torch")


def test_a_second_process_in_a_run_folder_is_refused(run):
    before = snapshot(run)
    with RunFolder.open(run):
        code = "import sys\nfrom fwt.cli.main import run\nsys.exit(run(sys.argv[1:]))"
        done = python(code, "train", "--resume", run, "--backend", light())
        assert done.code == 2, done
        check_refusal(done, ["in use by another process"])
        assert snapshot(run) == before
    good("train", "--resume", run, "--backend", "torch")
