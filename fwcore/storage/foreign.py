"""Checkpoints in the layouts of `torch.nn` and `mlx.nn`: read to canonical, written from it.

What was changed in a file of another program is said in the checkpoint's `notes`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fwt.fwcore import model, params
from fwt.fwcore.errors import CheckpointError, ConfigError, nearest
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, files, layouts
from fwt.fwcore.storage.adapt import adapt, missing_biases
from fwt.fwcore.storage.checkpoint import (
    MODEL_FILE,
    MOMENTS,
    OPTIMIZER_FILE,
    Checkpoint,
    Progress,
    State,
)
from fwt.fwcore.storage.runs import find_checkpoint

PT_SUFFIXES = (".pt", ".pth")
UNPACKED = 2**24, 16  # bytes, and times its own size, that a .npz file may unpack to


Reader = Callable[[Path], dict[str, NumpyArray]]


def load(
    source: Path,
    spec: Path | RunSpec | None = None,
    layout: str | None = None,
    read_pt: Reader | None = None,
    zero_biases: bool = False,
) -> Checkpoint:
    """A checkpoint in any layout, in canonical names and axes.

    bfloat16 and float16 are read as float32.

    Args:
        source: a run, a checkpoint folder, or a `.safetensors`, `.npz` or `.pt` file.
        spec: the run, or its `spec.json`, for a file without one in its metadata.
        layout: `torch`, `mlx` or `fwt`, for a file that does not say it.
        read_pt: reads a `.pt` file; it needs PyTorch, which this package does not import.
        zero_biases: take zeros for biases that a file of another program has not.

    Raises:
        CheckpointError: it is damaged, or does not fit its spec; every difference is named, in the
            names of the layout.
        ConfigError: the file says neither spec nor layout and none was given.
    """
    if layout is not None:
        _known(layout, "--from")
    folder = source.is_dir()
    if folder and not (source / MODEL_FILE).exists():
        return find_checkpoint(source)
    path = source / MODEL_FILE if folder else source
    state = checkpoint.read_state(source) if folder else None
    if state is None:
        arrays, metadata = _read(path, read_pt)
    else:
        arrays, metadata = checkpoint.read_checked(source, MODEL_FILE, state)
        checkpoint.check_spec(state.spec, metadata, source)
    said = metadata.get("fwt.layout")
    if layout is not None and said is not None and layout != said:
        raise ConfigError(f"{source}: the file says layout={said!r}, got --from {layout}")
    layout = layout or said
    if layout == "fwt" and folder:
        return checkpoint.read(source)
    if layout is None:
        raise ConfigError(
            f"{source}: which layout is it? give --from torch, mlx or fwt "
            "(fwt train: --init-layout)"
        )
    _known(layout, str(source))
    run = _spec(spec, metadata, path)
    table, kind = model.parameters(run.model), run.model.core.kind
    native = layouts.table_in(table, kind, layout)
    moments, progress = None, Progress()
    notes: tuple[str, ...] = ()
    if state is None:
        arrays, notes = _adapted(native, arrays, zero_biases, path)
    else:
        _refuse(params.mismatches(native, arrays), path)
        moments, progress = _moments(source, state, layout), state.progress
    found = layouts.restore(table, kind, arrays, layout)
    return Checkpoint(run, found, moments, progress, source, notes)


def _adapted(
    table: Sequence[Param], given: Mapping[str, NumpyArray], zero_biases: bool, path: Path
) -> tuple[dict[str, NumpyArray], tuple[str, ...]]:
    """What another program wrote as arrays that fit a layout's table, and what was changed."""
    arrays, notes = adapt(table, given)
    zeros = missing_biases(table, arrays)
    if zeros and zero_biases:
        arrays, notes = arrays | zeros, (*notes, f"zeros for missing biases: {', '.join(zeros)}")
    faults = params.mismatches(table, arrays)
    if zeros and not zero_biases:
        faults.append("a layer with bias=False? fwt convert --zero-biases takes zeros for biases")
    _refuse(faults, path)
    return arrays, notes


def _moments(folder: Path, state: State, layout: str) -> dict[str, NumpyArray] | None:
    """Adam's moments in canonical names; None where there are none."""
    if OPTIMIZER_FILE not in state.sha256:
        return None
    arrays, _ = checkpoint.read_checked(folder, OPTIMIZER_FILE, state)
    spec, path = state.spec, folder / OPTIMIZER_FILE
    table, kind = model.parameters(spec.model), spec.model.core.kind
    native = layouts.table_in(table, kind, layout)
    _refuse(params.mismatches(checkpoint.moments_table(native), arrays), path)
    result: dict[str, NumpyArray] = {}
    for moment in MOMENTS:
        part = {param.name: arrays[f"{moment}{param.name}"] for param in native}
        found = layouts.restore(table, kind, part, layout, moments=True)
        result.update({f"{moment}{name}": array for name, array in found.items()})
    return result


def save(target: Path, found: Checkpoint, layout: str) -> None:
    """Write a checkpoint folder in a layout.

    Args:
        target: the folder; it must not exist.
        found: in canonical names and axes.
        layout: `torch`, `mlx` or `fwt`.

    Raises:
        ConfigError: the folder exists, or the layout is unknown.
        FileError: it cannot be written.
    """
    _known(layout, "--to")
    if target.exists():
        raise ConfigError(f"{target}: exists; choose a folder that does not")
    table, kind = model.parameters(found.spec.model), found.spec.model.core.kind
    weights = layouts.export(table, kind, found.params, layout)
    moments = None
    if found.moments is not None:
        moments = {}
        for moment in MOMENTS:
            part = {p.name: found.moments[f"{moment}{p.name}"] for p in table}
            native = layouts.export(table, kind, part, layout, moments=True)
            moments.update({f"{moment}{name}": array for name, array in native.items()})
    checkpoint.write(target, found.spec, weights, moments, found.progress, layout)


def _known(layout: str, where: str) -> None:
    if layout not in layouts.LAYOUTS:
        known = nearest(layout, layouts.LAYOUTS)
        raise ConfigError(f"{where}: unknown layout {layout!r} ({known})")


def _spec(given: Path | RunSpec | None, metadata: dict[str, str], path: Path) -> RunSpec:
    if given is None:
        return checkpoint.spec_from(metadata, path)
    if isinstance(given, RunSpec):
        return given
    try:
        return RunSpec.parse(files.from_json(files.text(given)), str(given))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{given}: cannot be read: {error}") from error


def _read(path: Path, read_pt: Reader | None) -> tuple[dict[str, NumpyArray], dict[str, str]]:
    """Arrays and metadata of a `.safetensors`, `.npz` or `.pt` file, chosen by the file's name."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected a run, a checkpoint folder, a .safetensors, .npz or "
            ".pt file"
        )
    if path.suffix.lower() == ".npz":
        return _read_npz(path), {}
    if path.suffix.lower() in PT_SUFFIXES:
        if read_pt is None:
            raise ConfigError(f"{path}: a {path.suffix} file is read with PyTorch: fwt convert")
        return read_pt(path), {}
    return checkpoint.read_tensors(path)


def _read_npz(path: Path) -> dict[str, NumpyArray]:
    """The arrays of an `.npz` file; pickled ones are refused.

    Raises:
        CheckpointError: it is missing, damaged, or would have to be unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path.stat().st_size)
            return {
                member.filename.removesuffix(".npy"): files.from_npy(archive.read(member))
                for member in members
            }
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: not a readable .npz file ({error})") from error


def _check_members(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse what no `numpy.savez` writes, before anything is unpacked.

    Raises:
        ValueError: a member is no array or is there twice, or all unpack to far more than the file.
    """
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise ValueError("expected members that end in .npy, each once")
    total, most = sum(member.file_size for member in members), UNPACKED[0] + UNPACKED[1] * size
    if total > most:
        raise ValueError(f"expected at most {most} bytes unpacked, got {total}")


def _refuse(faults: list[str], path: Path) -> None:
    if faults:
        raise CheckpointError(f"{path}: weights do not fit the spec: {'; '.join(faults)}")
