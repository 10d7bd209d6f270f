"""Checkpoints: the only reader and writer of their files, one format for every backend.

A checkpoint is a folder of `model.safetensors` (canonical names; the run's spec in its metadata,
so that this file alone rebuilds the model), `optimizer.safetensors` (moments under the same
names) and `state.json`. It is written beside its place, read back, and renamed into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import safetensors
import safetensors.numpy

from fwcore import layouts, model, params
from fwcore.errors import CheckpointError, ConfigError, FileError
from fwcore.frozen import Frozen
from fwcore.params import Param
from fwcore.spec import FORMAT_VERSION, RunSpec

Array = np.ndarray[Any, np.dtype[Any]]

MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("m.", "v.")  # what the names in the optimizer's file begin with


class Best(Frozen):
    """The step that was best on the validation split."""

    step: int
    error_pct: float
    loss: float

    def rank(self) -> tuple[float, float]:
        """Lower is better: the error, then the loss."""
        return self.error_pct, self.loss


class Progress(pydantic.BaseModel):
    """Where a run stands; the data cursor is the step itself.

    Attributes:
        step: updates made.
        best: the best validated step so far.
        unreported: loss, wrong answers and gradient norm of each update that no line of metrics
            covers yet.
        elapsed_s: seconds of training so far, over all calls.
        reported_s: the same at the last line of training metrics.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    step: int = 0
    best: Best | None = None
    unreported: list[list[float]] = []
    elapsed_s: float = 0.0
    reported_s: float = 0.0


class State(Frozen):
    """The content of `state.json`."""

    format_version: int
    progress: Progress
    spec: RunSpec
    sha256: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        spec: of the run it belongs to.
        params: weights by canonical name.
        moments: Adam's moments, or None where the file came alone.
        progress: where the run stood.
        path: where it was read.
    """

    spec: RunSpec
    params: dict[str, Array]
    moments: dict[str, Array] | None
    progress: Progress
    path: Path


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first failure is the news
            partial.unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error


def write_tensors(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Write arrays to a safetensors file, read them back, and return the file's SHA-256.

    Arrays are made contiguous first: safetensors writes strided ones wrongly.

    Raises:
        FileError: what was read back is not what was to be written.
    """
    # not ascontiguousarray: it gives a single number, of shape (), the shape (1,)
    solid = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # not save_file: it makes the file readable for its owner alone, whatever the umask says
    path.write_bytes(_ordered(safetensors.numpy.save(solid, metadata=dict(metadata))))
    sync(path)
    found, _ = read_tensors(path)
    for name, array in arrays.items():
        if found[name].tobytes() != array.tobytes() or found[name].shape != array.shape:
            raise FileError(f"{path}: {name!r} reads back other than it was written; disk fault?")
    return sha256(path)


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its metadata in order, so that equal content has equal bytes.

    The library writes metadata in an order that differs from call to call. The header is JSON
    behind its length, padded with spaces to a multiple of 8.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Raises:
        CheckpointError: it is missing, truncated, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: {_why_unreadable(path)} ({error})") from error
    return arrays, metadata


def _why_unreadable(path: Path) -> str:
    """What a file that is no readable safetensors file seems to be."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return "the file cannot be read"
    if start.startswith((b"PK", b"\x80")):
        return "this is a pickle or zip archive, which is never loaded; expected safetensors"
    return "not a whole safetensors file; it is truncated or damaged"


def metadata_of(spec: RunSpec, layout: str = "fwt") -> dict[str, str]:
    """What a model file says of itself."""
    table = model.parameters(spec.model)
    axes = {param.name: layouts.axes_in(param, layout) for param in table}
    libraries = {name: version(name) for name in ("numpy", "safetensors")}
    return {
        "format": "mlx" if layout == "mlx" else "pt",
        "fwt.format_version": str(FORMAT_VERSION),
        "fwt.layout": layout,
        "fwt.axes": json.dumps(axes, sort_keys=True),
        "fwt.spec": json.dumps(spec.json_data(), sort_keys=True),
        "fwt.versions": json.dumps(libraries, sort_keys=True),
    }


def spec_from(metadata: Mapping[str, str], path: Path) -> RunSpec:
    """The run's spec from a model file's metadata.

    Raises:
        CheckpointError: there is none, it is not readable, or it is of a newer format.
    """
    if "fwt.spec" not in metadata:
        raise CheckpointError(
            f"{path}: the file does not say which model it is (no 'fwt.spec' in its metadata); "
            "convert it with: fwt convert SRC DST --to fwt --spec SPEC.json"
        )
    check_version(metadata.get("fwt.format_version"), path)
    try:
        data = json.loads(metadata["fwt.spec"])
    except ValueError as error:
        raise CheckpointError(f"{path}: 'fwt.spec' is not JSON ({error})") from error
    return _parse(data, path)


def _parse(data: Any, path: Path) -> RunSpec:
    try:
        return RunSpec.parse(data, "spec")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def check_version(found: Any, path: Path) -> None:
    """Refuse a format that this version of fwt does not know.

    Raises:
        CheckpointError: the version is newer, or is no number.
    """
    if not str(found).isdigit():
        raise CheckpointError(f"{path}: expected a format version, got {found!r}")
    if int(found) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version={found} is newer than this fwt reads "
            f"(up to {FORMAT_VERSION}); upgrade fwt"
        )


def write(
    folder: Path,
    spec: RunSpec,
    weights: Mapping[str, Array],
    moments: Mapping[str, Array] | None,
    progress: Progress,
    layout: str = "fwt",
) -> None:
    """Write a checkpoint folder whole or not at all, replacing one that is there.

    Args:
        weights, moments: named and ordered as `layout` has them.

    Raises:
        FileError: it cannot be written; what was there before is still there.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        hashes = {
            MODEL_FILE: write_tensors(partial / MODEL_FILE, weights, metadata_of(spec, layout))
        }
        if moments is not None:
            labels = {"format": "pt", "fwt.layout": layout, "fwt.step": str(progress.step)}
            hashes[OPTIMIZER_FILE] = write_tensors(partial / OPTIMIZER_FILE, moments, labels)
        state = State(format_version=FORMAT_VERSION, progress=progress, spec=spec, sha256=hashes)
        text = json.dumps(state.json_data(), indent=1, sort_keys=True)
        write_text(partial / STATE_FILE, f"{text}\n")
        sync(partial)
        _put_in_place(partial, folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename a finished folder to its name; if that fails, what had the name has it again."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
        sync(folder.parent)
    except OSError:
        if folder.exists():
            folder.rename(partial)
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_progress(folder: Path) -> Progress:
    """Where the run of a checkpoint folder stood."""
    return _state(folder).progress


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it is missing or damaged, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _state(folder: Path) -> State:
    path = folder / STATE_FILE
    data = read_object(path)
    check_version(data.get("format_version"), path)
    try:
        return State.parse(data, "state")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _checked(folder: Path, name: str, state: State) -> tuple[dict[str, Array], dict[str, str]]:
    """A tensor file of a checkpoint folder whose hash is the one in `state.json`."""
    arrays, metadata = read_tensors(folder / name)
    expected, got = state.sha256.get(name), sha256(folder / name)
    if expected != got:
        raise CheckpointError(
            f"{folder / name}: expected sha256={expected} as {STATE_FILE} says, got {got}; "
            "the file was changed or belongs to another checkpoint"
        )
    return arrays, metadata


def read(path: Path) -> Checkpoint:
    """A checkpoint from its folder, or from a model file alone.

    Args:
        path: a folder that holds `model.safetensors`, or such a file itself.

    Raises:
        CheckpointError: it is missing, damaged, of a newer format, in a framework's own layout,
            or its weights do not fit its spec; every difference is named.
    """
    if path.is_dir():
        state = _state(path)
        arrays, metadata = _checked(path, MODEL_FILE, state)
        spec, progress = state.spec, state.progress
    else:
        arrays, metadata = read_tensors(path)
        state, spec, progress = None, spec_from(metadata, path), Progress()
    if metadata.get("fwt.layout") != "fwt":
        raise CheckpointError(
            f"{path}: layout={metadata.get('fwt.layout')!r}, expected 'fwt'; "
            f"convert it with: fwt convert {path} DST --to fwt"
        )
    table = model.parameters(spec.model)
    _refuse(params.mismatches(table, arrays), path)
    moments = None
    if state is not None and OPTIMIZER_FILE in state.sha256:
        moments, _ = _checked(path, OPTIMIZER_FILE, state)
        _refuse(params.mismatches(moments_table(table), moments), path / OPTIMIZER_FILE)
    return Checkpoint(spec, arrays, moments, progress, path)


def moments_table(table: Sequence[Param]) -> list[Param]:
    """The table of Adam's moments: each parameter's, under `m.` and its name, then under `v.`."""
    return [replace(param, name=f"{kind}{param.name}") for kind in MOMENTS for param in table]


def _refuse(faults: list[str], path: Path) -> None:
    if faults:
        raise CheckpointError(f"{path}: weights do not fit the spec: {'; '.join(faults)}")
