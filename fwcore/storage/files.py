"""Files of unknown origin: no more is read than a file may hold, and its text means one thing.

A file may come from anywhere: a pipe or a device would be read for ever, a key that stands twice
means something else to every reader, and a header may name a shape that no memory holds.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import math
import os
import stat
import tokenize
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from fwt.fwcore.ops import NumpyArray

MOST_TEXT = 64 * 2**20  # bytes of a settings or state file
MOST_LINES = 2**30  # bytes of a file of metrics
MOST_DIGITS = 4096  # bits of a whole number, which Python can still print

# what NumPy raises for the header of an .npy file, which it reads as a Python literal
HEADER_FAULTS = (
    ValueError, SyntaxError, TypeError, KeyError, OverflowError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip


def contents(path: Path, most: int = MOST_TEXT) -> bytes:
    """The bytes of a plain file.

    Args:
        path: the file; a link to one is followed.
        most: bytes that it may hold.

    Raises:
        OSError: it cannot be read, is no plain file, or is larger.
    """
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "expected a plain file, got a pipe or a device", str(path))
    if about.st_size > most:
        what = f"expected at most {most} bytes, got size={about.st_size}"
        raise OSError(errno.EFBIG, what, str(path))
    return path.read_bytes()


def text(path: Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """The text of a plain file, which must be UTF-8; a byte order mark before it is no text.

    Args:
        path, most: see `contents`.
        errors: what becomes of bytes that are not UTF-8; see `bytes.decode`.

    Raises:
        OSError: see `contents`.
        UnicodeDecodeError: it is not UTF-8.
    """
    stored = contents(path, most).removeprefix(codecs.BOM_UTF8)
    try:
        return stored.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        if stored.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            error.reason = "it begins like UTF-16; save it as UTF-8"
        raise


def from_json(source: str | bytes, finite: bool = True) -> Any:
    """JSON data in which no key of an object stands twice.

    Args:
        source: the text.
        finite: refuse NaN and infinities, which JSON does not have and Python writes.

    Raises:
        ValueError: it is not such JSON, or is nested too deeply.
    """
    hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite} if finite else {}
    try:
        return json.loads(source, object_pairs_hook=_each_once, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"expected numbers that are finite, got {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"expected numbers that are finite, got {digits}")
    return number


def from_toml(source: str) -> dict[str, Any]:
    """TOML data whose numbers can be printed; its infinities and NaN are for its schema to refuse.

    Raises:
        ValueError: it is not such TOML, or is nested too deeply.
    """
    try:
        found = tomllib.loads(source)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    waiting: list[Any] = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value.bit_length() > MOST_DIGITS:
            raise ValueError(f"expected whole numbers of at most {MOST_DIGITS} bits")
    return found


def from_npy(data: bytes) -> NumpyArray:
    """The array of an `.npy` file of plain numbers; it shares the memory of `data`.

    Nothing is allocated for what a header says that the bytes after it are not.

    Raises:
        ValueError: it is damaged, too short or too long, or holds objects.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"expected version 1 or 2 of the format, got {version}")
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file)
        if kind.hasobject or not kind.itemsize:
            raise ValueError(f"expected plain numbers (allow_pickle=False), got type={kind}")
        size = math.prod(shape) * kind.itemsize
        if min(shape, default=0) < 0 or size != len(data) - file.tell():
            raise ValueError(
                f"expected {size} bytes for shape={shape}, got {len(data) - file.tell()}"
            )
        flat = np.frombuffer(data, kind, math.prod(shape), file.tell()) if size else None
        array = np.empty(shape, kind) if flat is None else flat
        return array.reshape(shape, order="F" if fortran else "C")
    except HEADER_FAULTS as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
