"""Checkpoints: the only reader and writer of their files, one format for every backend.

A checkpoint is a folder of `model.safetensors` (canonical names; the run's spec in its metadata,
so that this file alone rebuilds the model), `optimizer.safetensors` (moments under the same
names) and `state.json`. It is written beside its place, read back, and renamed into it.

Every file says a SHA-256 that it is held against: a tensor file that of its own content,
`state.json` those of the tensor files and that of its own data. They tell damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
import safetensors
import safetensors.numpy
from pydantic import JsonValue

from fwt.fwcore import model, params
from fwt.fwcore.errors import CheckpointError, ConfigError, FileError
from fwt.fwcore.frozen import Frozen, JsonObject
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.paths import quote
from fwt.fwcore.spec import FORMAT_VERSION, Count, NonNegative, RunSpec
from fwt.fwcore.storage import files, layouts
from fwt.fwcore.storage.durable import (
    create,
    new_folder,
    partial_of,
    rename,
    sync_folder,
    write_text,
)
from fwt.fwcore.storage.tensors import DIGEST, digest, ordered
from fwt.fwcore.storage.tensors import read_tensors as read_tensors

MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("m.", "v.")  # what the names in the optimizer's file begin with
VERSION = re.compile(r"[0-9]{1,9}")
Row = Annotated[list[float], pydantic.Field(min_length=3, max_length=3)]


class Best(Frozen):
    """The step that was best on the validation split."""

    step: Count
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

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    step: Count = 0
    best: Best | None = None
    unreported: list[Row] = []
    elapsed_s: NonNegative = 0.0
    reported_s: NonNegative = 0.0


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
        notes: what was changed as a file of another program was read, one phrase each.
    """

    spec: RunSpec
    params: dict[str, NumpyArray]
    moments: dict[str, NumpyArray] | None
    progress: Progress
    path: Path
    notes: tuple[str, ...] = ()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, arrays: Mapping[str, NumpyArray], metadata: Mapping[str, str]) -> str:
    """Write arrays to a safetensors file, read them back, and return the file's SHA-256.

    Arrays are made contiguous first: safetensors writes strided ones wrongly. The digest of arrays
    and metadata is written beside them.

    Raises:
        FileError: what was read back is not what was to be written.
    """
    # not ascontiguousarray: it gives a single number, of shape (), the shape (1,)
    solid = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # not save_file: it makes the file readable for its owner alone, whatever the umask says
    labels = {**metadata, DIGEST: digest(solid, metadata)}
    create(path, ordered(safetensors.numpy.save(solid, metadata=labels)))
    try:
        read_tensors(path)  # which holds it against the digest
    except CheckpointError as error:
        raise FileError(
            f"{path}: reads back other than it was written; disk fault? {error}"
        ) from error
    return sha256(path)


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
        data = files.from_json(metadata["fwt.spec"])
    except ValueError as error:
        raise CheckpointError(f"{path}: 'fwt.spec' is not JSON ({error})") from error
    return _parse(data, path)


def _parse(data: JsonValue, path: Path) -> RunSpec:
    try:
        return RunSpec.parse(data, "spec")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def check_version(number: object, path: Path) -> None:
    """Refuse a format that this version of fwt does not know.

    Raises:
        CheckpointError: the version is newer, or is no number.
    """
    if not VERSION.fullmatch(str(number)):
        raise CheckpointError(f"{path}: expected a format version, got {number!r}")
    if int(str(number)) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version={number} is newer than this fwt reads "
            f"(up to {FORMAT_VERSION}); upgrade fwt"
        )


def write(
    folder: Path,
    spec: RunSpec,
    weights: Mapping[str, NumpyArray],
    moments: Mapping[str, NumpyArray] | None,
    progress: Progress,
    layout: str = "fwt",
) -> None:
    """Write a checkpoint folder whole or not at all, replacing one that is there.

    Args:
        weights, moments: named and ordered as `layout` has them.

    Raises:
        FileError: it cannot be written; what was there before is still there.
    """
    partial = partial_of(folder)
    try:
        with new_folder(folder.parent):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                _fill(partial, spec, weights, moments, progress, layout)
                _put_in_place(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"{folder}: cannot be written: {error}") from error


def _fill(
    folder: Path,
    spec: RunSpec,
    weights: Mapping[str, NumpyArray],
    moments: Mapping[str, NumpyArray] | None,
    progress: Progress,
    layout: str,
) -> None:
    """The files of a checkpoint in an empty folder, on the disk; see `write`."""
    hashes = {MODEL_FILE: write_tensors(folder / MODEL_FILE, weights, metadata_of(spec, layout))}
    if moments is not None:
        labels = {"format": "pt", "fwt.layout": layout, "fwt.step": str(progress.step)}
        hashes[OPTIMIZER_FILE] = write_tensors(folder / OPTIMIZER_FILE, moments, labels)
    state = State(format_version=FORMAT_VERSION, progress=progress, spec=spec, sha256=hashes)
    data = state.json_data()
    data["sha256"] = {**hashes, STATE_FILE: _digest_of(data, hashes)}
    text = json.dumps(data, indent=1, sort_keys=True)
    write_text(folder / STATE_FILE, f"{text}\n")  # which syncs the folder, too


def _old(folder: Path) -> Path:
    """The name that a checkpoint has while a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename a finished folder to its name; if that fails, what had the name has it again."""
    old = _old(folder)
    if folder.exists():  # else the old one is the only one: a process was killed between renames
        shutil.rmtree(old, ignore_errors=True)
        rename(folder, old)
    try:
        rename(partial, folder)
        sync_folder(folder.parent)
    except OSError:
        if folder.exists():
            rename(folder, partial)
        if old.exists():
            rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Undo what a process that was killed while it wrote a checkpoint left beside it.

    Nobody else may write there meanwhile.

    Raises:
        OSError: it cannot be undone.
    """
    shutil.rmtree(partial_of(folder), ignore_errors=True)
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir():
        rename(old, folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint that is not needed any more: it loses its name first, then its files.

    Raises:
        OSError: it cannot be removed.
    """
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    rename(folder, partial)
    shutil.rmtree(partial)


def settled(folder: Path) -> Path:
    """A checkpoint folder, or what has its content where a process was killed between renames."""
    if folder.exists():
        return folder
    old = _old(folder)
    return old if old.is_dir() else folder


def read_progress(folder: Path) -> Progress:
    """Where the run of a checkpoint folder stood."""
    return read_state(folder).progress


def read_object(path: Path) -> JsonObject:
    """The object in a JSON file.

    Raises:
        CheckpointError: it is missing or damaged, or holds something else.
    """
    try:
        data = files.from_json(files.text(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _digest_of(data: Mapping[str, JsonValue], hashes: Mapping[str, str]) -> str:
    """SHA-256 of the data of a `state.json` with these hashes, but without this number itself."""
    others = {name: value for name, value in hashes.items() if name != STATE_FILE}
    text = json.dumps({**data, "sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_state(folder: Path) -> State:
    """The content of a checkpoint folder's `state.json`, held against its own digest if it has one.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer format.
    """
    path = folder / STATE_FILE
    data = read_object(path)
    check_version(data.get("format_version"), path)
    try:
        state = State.parse(data, "state")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    said = state.sha256.get(STATE_FILE)
    if said is not None and said != (got := _digest_of(data, state.sha256)):
        raise CheckpointError(
            f"{path}: expected sha256={said} of its data as the file itself says, got {got}; "
            "the file was changed or damaged"
        )
    return state


def read_checked(
    folder: Path, name: str, state: State
) -> tuple[dict[str, NumpyArray], dict[str, str]]:
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
    path = settled(path)
    if path.is_dir():
        state = read_state(path)
        arrays, metadata = read_checked(path, MODEL_FILE, state)
        spec, progress = state.spec, state.progress
        check_spec(spec, metadata, path)
    else:
        arrays, metadata = read_tensors(path)
        state, spec, progress = None, spec_from(metadata, path), Progress()
    if metadata.get("fwt.layout") != "fwt":
        raise CheckpointError(
            f"{path}: layout={metadata.get('fwt.layout')!r}, expected 'fwt'; "
            f"convert it with: fwt convert {quote(path)} DST --to fwt"
        )
    table = model.parameters(spec.model)
    _refuse(params.mismatches(table, arrays), path)
    moments = None
    if state is not None and OPTIMIZER_FILE in state.sha256:
        moments, _ = read_checked(path, OPTIMIZER_FILE, state)
        _refuse(params.mismatches(moments_table(table), moments), path / OPTIMIZER_FILE)
    return Checkpoint(spec, arrays, moments, progress, path)


def check_spec(spec: RunSpec, metadata: Mapping[str, str], path: Path) -> None:
    """Refuse a model file that is of another run than `state.json` beside it.

    Raises:
        CheckpointError: it is, or does not say of which.
    """
    if spec_from(metadata, path / MODEL_FILE) != spec:
        raise CheckpointError(
            f"{path}: {MODEL_FILE} and {STATE_FILE} have different specs; one of them was changed "
            "or belongs to another checkpoint"
        )


def moments_table(table: Sequence[Param]) -> list[Param]:
    """The table of Adam's moments: each parameter's, under `m.` and its name, then under `v.`."""
    return [replace(param, name=f"{kind}{param.name}") for kind in MOMENTS for param in table]


def _refuse(faults: list[str], path: Path) -> None:
    if faults:
        raise CheckpointError(f"{path}: weights do not fit the spec: {'; '.join(faults)}")
