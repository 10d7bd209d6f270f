"""Tensor files: safetensors that say their own digest, so that damage to one alone is seen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage import files
from fwt.fwcore.storage.dtypes import BFLOAT16, unread

# what the library can hand to NumPy, by safetensors' names of types
NUMPY_TYPES = {
    "F64", "F32", "F16", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8", "BOOL",
}  # fmt: skip
DIGEST = "fwt.sha256"  # the label of a tensor file under which its own digest stands
LABELS = {
    "fwt.format_version", "fwt.layout", "fwt.axes", "fwt.spec", "fwt.versions", "fwt.step", DIGEST,
}  # fmt: skip


def digest(arrays: Mapping[str, NumpyArray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of arrays and metadata, whatever the order of their names."""
    found = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def ordered(content: bytes) -> bytes:
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


def read_tensors(path: Path) -> tuple[dict[str, NumpyArray], dict[str, str]]:
    """Arrays and metadata of a safetensors file, held against the digest in it if it has one.

    bfloat16 comes as `fwt.fwcore.storage.dtypes.BFLOAT16`, a type unknown to NumPy as its `unread`.

    Raises:
        CheckpointError: it is missing, truncated, damaged, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            start, header = _header(path)
            arrays = {
                name: file.get_tensor(name) if entry["dtype"] in NUMPY_TYPES
                else _other_tensor(path, start, entry)
                for name, entry in header.items()
            }  # fmt: skip
            metadata: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, TypeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {_why_unreadable(path)} ({error})") from error
    unknown = [name for name in metadata if name.startswith("fwt.") and name not in LABELS]
    if unknown:
        raise CheckpointError(
            f"{path}: unknown label {unknown[0]!r} in its metadata; the file is damaged or of a "
            "newer fwt"
        )
    said = metadata.pop(DIGEST, None)
    if said is not None and said != (got := digest(arrays, metadata)):
        raise CheckpointError(
            f"{path}: expected sha256={said} of its content as the file itself says, got {got}; "
            "the file was changed or damaged"
        )
    return arrays, metadata


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begin, and type, shape and place of each array in them.

    The library must have held them against the file's size.

    Raises:
        ValueError: a name stands twice, of which the library takes the last.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = files.from_json(file.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header


def _other_tensor(path: Path, start: int, entry: Mapping[str, Any]) -> NumpyArray:
    """An array of a type that NumPy lacks, by its bits if it is bfloat16."""
    kind, shape = entry["dtype"], tuple(entry["shape"])
    if kind != "BF16":
        return unread(kind, shape)
    place = start + entry["data_offsets"][0]
    return np.fromfile(path, BFLOAT16, math.prod(shape), offset=place).reshape(shape)


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
