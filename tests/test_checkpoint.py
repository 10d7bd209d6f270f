"""Checkpoint files: whole or not at all, contiguous, read back, strict, enough on their own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fwt import backends
from fwt.fwcore.errors import CheckpointError, FileError
from fwt.fwcore.params import initialise
from fwt.fwcore.spec import FORMAT_VERSION, RunSpec
from fwt.fwcore.storage import checkpoint, durable
from fwt.fwcore.storage.checkpoint import Best, Progress
from tests.cli_tools import snapshot
from tests.conftest import need
from tests.faulty import Faulty
from tests.small_run import SPEC, TABLE
from tests.tolerances import assert_same

PROGRESS = Progress(
    step=2, best=Best(step=1, error_pct=50.0, loss=1.5), unreported=[[1.0, 2.0, 3.0]], elapsed_s=0.5
)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    return initialise(TABLE, seed)


def moments(seed: int = 5) -> dict[str, np.ndarray]:
    drawn = {kind: initialise(TABLE, seed + at) for at, kind in enumerate(checkpoint.MOMENTS)}
    return {f"{kind}{name}": array for kind in drawn for name, array in drawn[kind].items()}


def write(folder: Path, seed: int = 0) -> None:
    checkpoint.write(folder, SPEC, weights(seed), moments(), PROGRESS)


def test_all_of_a_checkpoint_comes_back(tmp_path):
    folder = tmp_path / "a" / "point"
    write(folder)
    found = checkpoint.read(folder)
    assert_same(weights(), found.params)
    assert found.moments is not None
    assert_same(moments(), found.moments)
    assert (found.spec, found.progress, found.path) == (SPEC, PROGRESS, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["point"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


def test_the_model_file_alone_rebuilds_the_model(tmp_path):
    write(tmp_path / "point")
    alone = Path(shutil.copy(tmp_path / "point" / "model.safetensors", tmp_path / "any name"))
    found = checkpoint.read(alone)
    assert found.spec == SPEC
    assert (found.moments, found.progress) == (None, Progress())
    inputs = np.arange(14).reshape(2, 7)
    backend = need("numpy")
    rebuilt = backend.compile(found.spec.model, found.params).forward(inputs)
    wanted = backend.compile(SPEC.model, weights()).forward(inputs)
    assert rebuilt.tobytes() == wanted.tobytes()


def test_a_model_file_says_what_it_is(tmp_path):
    write(tmp_path / "point")
    _, labels = checkpoint.read_tensors(tmp_path / "point" / "model.safetensors")
    assert labels["format"] == "pt"
    assert labels["fwt.layout"] == "fwt"
    assert labels["fwt.format_version"] == str(FORMAT_VERSION)
    assert json.loads(labels["fwt.axes"]) == {param.name: param.axes for param in TABLE}
    assert RunSpec.parse(json.loads(labels["fwt.spec"]), "labels") == SPEC
    assert json.loads(labels["fwt.versions"])["numpy"] == np.__version__


def test_equal_checkpoints_are_equal_files(tmp_path):
    for name in ("one", "two", "three"):
        write(tmp_path / name)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two") == snapshot(tmp_path / "three")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write(tmp_path / "point")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "point").iterdir()}
    assert modes == {0o644}


# --- arrays -------------------------------------------------------------------------------


def strided() -> dict[str, np.ndarray]:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    return {
        "transposed": whole.T,
        "fortran": np.asfortranarray(whole),
        "every other": whole[:, ::2],
        "backwards": whole[::-1],
        "broadcast": np.broadcast_to(whole[0], (3, 6)),
        "number": np.asarray(np.float32(2.5)),
        "double": whole.astype(np.float64).T,
        "minus zero": np.array([-0.0, 0.0], np.float32),
    }


def test_arrays_of_every_stride_come_back_as_they_were(tmp_path):
    arrays = strided()
    checkpoint.write_tensors(tmp_path / "file", arrays, {"a": "b"})
    found, labels = checkpoint.read_tensors(tmp_path / "file")
    assert labels == {"a": "b"}
    assert_same(arrays, found)


@pytest.mark.skipif(
    safetensors.__version__.startswith(("0.5.", "0.6.", "0.7.")),
    reason="before 0.8 it copied such an array itself",
)
def test_that_guard_is_needed():
    """What the library itself does with such an array; if this fails, it has been mended."""
    array = strided()["transposed"]
    found = safetensors.numpy.load(safetensors.numpy.save({"a": array}))["a"]
    assert found.tobytes() != array.tobytes()


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "point")
    before = snapshot(tmp_path)
    real = safetensors.numpy.save

    def faulty(arrays: Any, metadata: Any = None) -> bytes:
        content = bytearray(real(arrays, metadata=metadata))
        content[-1] ^= 1
        return bytes(content)

    monkeypatch.setattr(safetensors.numpy, "save", faulty)
    with pytest.raises(FileError, match="reads back other than it was written"):
        write(tmp_path / "point", seed=1)
    assert snapshot(tmp_path) == before


# --- faults of the system -----------------------------------------------------------------


STEPS = (
    (Path, "mkdir"), (checkpoint, "create"), (durable, "create"), (os, "replace"), (os, "fsync"),
    (durable, "sync_folder"), (safetensors.numpy, "save"), (checkpoint, "sha256"),
)  # fmt: skip


def fail_once(owner: Any, name: str, count: int, after: bool, act: Callable[[], None]) -> bool:
    """Act with one failing call; whether that call was reached."""
    with pytest.MonkeyPatch.context() as patch:
        fault = Faulty(getattr(owner, name), count, after)

        def hit(*arguments: Any, **named: Any) -> Any:
            return fault(*arguments, **named)

        patch.setattr(owner, name, hit)
        message = ""
        try:
            act()
        except FileError as error:
            message = str(error)
    if not message:
        assert fault.calls < count, f"{name}: call {count} failed without an error"
        return False
    assert "cannot be written" in message
    assert fault.calls >= count
    return True


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_fault_at_any_step_leaves_the_old_checkpoint(owner, name, after, tmp_path):
    point = tmp_path / "point"
    write(point)
    before = snapshot(tmp_path)
    count = 1
    while fail_once(owner, name, count, after, lambda: write(point, seed=1)):
        if name == "replace" and after and count == 2:
            # renamed and reported as failed: it lies beside, whole, and is put back by no one
            assert snapshot(tmp_path / ".point.old") == snapshot_of(before, "point")
            (tmp_path / ".point.old").rename(point)
        assert snapshot(tmp_path) == before, f"call {count}"
        assert_same(weights(), checkpoint.read(point).params)
        count += 1
    assert count > 1, "no call of it was seen"
    assert_same(weights(1), checkpoint.read(point).params)


def snapshot_of(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {
        name.removeprefix(f"{folder}/"): content
        for name, content in files.items()
        if name.startswith(f"{folder}/")
    }


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_fault_at_any_step_of_a_first_write_leaves_nothing(owner, name, tmp_path):
    count = 1
    while fail_once(owner, name, count, False, lambda: write(tmp_path / "point")):
        assert list(tmp_path.iterdir()) == [], f"call {count}"
        count += 1
    assert count > 1


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    write(tmp_path / "point")
    for left in (".point.partial", ".point.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    write(tmp_path / "point", seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["point"]
    assert_same(weights(1), checkpoint.read(tmp_path / "point").params)


# --- strict loads -------------------------------------------------------------------------


def test_every_fault_of_the_weights_is_in_one_message(tmp_path):
    wrong = weights()
    wrong["core.q"] = wrong.pop("core.w")
    wrong["core.c"] = wrong["core.c"].T
    wrong["head.output.bias"] = wrong["head.output.bias"].astype(np.float16)
    wrong["encoder.weight"][0, 0] = np.inf
    wrong["core.norm.bias"] = wrong["core.norm.bias"][:2]
    checkpoint.write(tmp_path / "point", SPEC, wrong, moments(), PROGRESS)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(tmp_path / "point")
    for part in (
        "missing 'core.w'",
        "extra 'core.q'",
        "'core.c' has shape (5, 3), expected (3, 5) (transposed?)",
        "'head.output.bias' has type float16",
        "'encoder.weight' holds numbers that are not finite",
        "'core.norm.bias' has shape (2,), expected (3,)",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_fault_of_the_moments_is_in_one_message(tmp_path):
    wrong = moments()
    wrong["x.core.w"] = wrong.pop("m.core.w")
    wrong["v.core.c"] = wrong["v.core.c"].T
    checkpoint.write(tmp_path / "point", SPEC, weights(), wrong, PROGRESS)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(tmp_path / "point")
    for part in ("missing 'm.core.w'", "extra 'x.core.w'", "'v.core.c' has shape (5, 3)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_file_of_another_checkpoint_is_refused(name, tmp_path):
    write(tmp_path / "one")
    checkpoint.write(tmp_path / "two", SPEC, weights(1), moments(7), PROGRESS)
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        checkpoint.read(tmp_path / "one")


@pytest.mark.parametrize("version", ["99", "1.5", "", "one"])
def test_a_version_that_is_not_known_is_refused(version, tmp_path):
    labels = checkpoint.metadata_of(SPEC) | {"fwt.format_version": version}
    checkpoint.write_tensors(tmp_path / "file", weights(), labels)
    with pytest.raises(CheckpointError, match=r"upgrade fwt|expected a format version"):
        checkpoint.read(tmp_path / "file")


@pytest.mark.parametrize("text", ["{", '"text"', "{}", '{"model": 3}'])
def test_a_spec_in_the_metadata_that_is_none_is_refused(text, tmp_path):
    labels = checkpoint.metadata_of(SPEC) | {"fwt.spec": text}
    checkpoint.write_tensors(tmp_path / "file", weights(), labels)
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "file")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_backend_reads_what_another_wrote(dtype, backend, tmp_path):
    """Weights of a compiled model go through a file into every other backend unchanged."""
    numbers = initialise(TABLE, 3, dtype)
    kept = {name: array.astype(np.float32).astype(dtype) for name, array in numbers.items()}
    of = backend.compile(SPEC.model, kept, device="cpu", dtype=backend_type(backend, dtype))
    checkpoint.write(tmp_path / "point", SPEC, of.parameters(), None, PROGRESS)
    found = checkpoint.read(tmp_path / "point").params
    for name in backends.BACKENDS:
        other = need(name)
        again = other.compile(SPEC.model, found, device="cpu", dtype=backend_type(other, dtype))
        for key, array in again.parameters().items():
            assert array.astype(dtype).tobytes() == kept[key].tobytes()


def backend_type(backend: Any, dtype: str) -> str:
    return "float64" if backend.name == "numpy" else dtype
