"""IDX files: unpacked, checked, and known by the hash of what is in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path

import numpy as np

from fwt.fwcore.errors import DataError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage import files
from fwt.tasks.sources import SOURCES, IdxFile, Source

GZIP_MAGIC = b"\x1f\x8b"
PIXELS = 28 * 28  # of an image
MOST_ITEMS = 300_000  # of a file whose count is not known; the largest dataset here has 240,000
RATIO = 16  # gzip packs images of handwriting to about a quarter
MARGIN = 2**16  # bytes of a file beside its items: headers, and what packing adds
IDX_UINT8 = 0x08  # the third byte of an IDX magic number; the fourth is the number of dimensions


def read(path: Path, file: IdxFile, source: Source) -> NumpyArray:
    """The array of a file, uint8 (N, 28, 28) or (N,): its structure, count and hash are checked.

    Raises:
        DataError: it is missing, damaged, or of another dataset.
    """
    try:
        stored = files.contents(path, _most(file))
    except OSError as error:
        raise DataError(
            f"{path}: expected a file that can be read, got {error.strerror!r}; "
            "check the path and its permissions"
        ) from error
    content = _unpack(stored, path, _most_unpacked(file, stored))
    array = _decode(content, path, file.dims)
    if file.count is not None and len(array) != file.count:
        raise DataError(
            f"{path}: expected {file.count} items for dataset {source.name!r}, got "
            f"count={len(array)}; this is another dataset's file, or part of one"
        )
    _check_hash(path, stored, content, file, source)
    return array


def _most(file: IdxFile) -> int:
    """Bytes that a file may have, packed or not."""
    count = MOST_ITEMS if file.count is None else file.count
    return MARGIN + count * (PIXELS if file.dims == 3 else 1)


def _most_unpacked(file: IdxFile, stored: bytes) -> int:
    """Bytes that a gzip file may unpack to; without this, few could unpack to gigabytes."""
    if file.count is not None:
        return _most(file)
    return min(_most(file), MARGIN + RATIO * len(stored))


def _unpack(stored: bytes, path: Path, most: int) -> bytes:
    """The bytes of a file, unpacked if they are gzip (told by content, not by name)."""
    if not stored.startswith(GZIP_MAGIC):
        return stored
    try:
        with gzip.open(io.BytesIO(stored)) as packed:
            found = packed.read(most + 1)
        if len(found) > most:
            raise DataError(
                f"{path}: expected at most {most} bytes unpacked, got more; this is no file of the "
                "dataset"
            )
        return found
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a whole gzip file, got one of size={len(stored)} bytes that is "
            f"truncated or damaged ({error}); fetch it again"
        ) from error


def _decode(content: bytes, path: Path, dims: int) -> NumpyArray:
    """An IDX file of unsigned bytes as a uint8 array of `dims` dimensions.

    The format (LeCun et al., the MNIST page): two zero bytes, the element type, the number of
    dimensions, each length as a big-endian 32-bit number, then the elements in C order.
    """
    header = 4 + 4 * dims
    if len(content) < header:
        raise DataError(
            f"{path}: expected an IDX header of {header} bytes, got size={len(content)} bytes; "
            "the file is truncated, fetch it again"
        )
    magic, expected = int.from_bytes(content[:4], "big"), IDX_UINT8 << 8 | dims
    if magic != expected:
        raise DataError(
            f"{path}: expected IDX magic number {expected:#010x} ({dims} dimensions of unsigned "
            f"bytes), got magic={magic:#010x}; this is another kind of file"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, dtype=">u4", count=dims, offset=4))
    if dims == 3 and shape[1:] != (28, 28):
        raise DataError(f"{path}: expected images of 28x28 pixels, got shape={shape}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes after the header for shape={shape}, got "
            f"{len(content) - header}; the file is truncated or damaged, fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _check_hash(path: Path, stored: bytes, content: bytes, file: IdxFile, source: Source) -> None:
    """Refuse a file of another content than the dataset's; how it is packed does not matter.

    One whose hash is not known must at least not be another dataset's: the files of MNIST,
    Fashion-MNIST and KMNIST have the same names and lengths.
    """
    found = _md5(content)
    if found == file.md5 or (file.gz_md5 is not None and _md5(stored) == file.gz_md5):
        return
    for other in SOURCES.values():
        if found in [known.md5 for known in other.files]:
            raise DataError(
                f"{path}: expected {file.name} of dataset {source.name!r}, got a file of dataset "
                f"{other.name!r} (md5={found}); name that dataset, or another folder with "
                "--data-dir"
            )
    if file.md5 is not None:
        raise DataError(
            f"{path}: expected md5 {file.md5} of dataset {source.name!r} unpacked, got "
            f"md5={found}: a damaged file or another dataset's; delete it and fetch it again, or "
            "for images of your own add a task (docs/add-a-task.md)"
        )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
