"""The image datasets: where their IDX files lie, how they are had, and proof of what they are."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import importlib
import io
import math
import os
import shutil
import socket
import string
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from fwcore import files
from fwcore.durable import rename
from fwcore.errors import ConfigError, DataError, nearest

Array = np.ndarray[Any, np.dtype[Any]]

AUTO = "auto"
FULL, SUBSET = "mnist", "mnist-subset"  # what `auto` tries, and what it falls back to
BUNDLED = Path(__file__).parent / "data"
OFFLINE = "FWT_OFFLINE"  # environment variable: set to 1, nothing is ever downloaded

GZIP_MAGIC = b"\x1f\x8b"
PIXELS = 28 * 28  # of an image
MOST_ITEMS = 300_000  # of a file whose count is not known; the largest dataset here has 240,000
RATIO = 16  # gzip packs images of handwriting to about a quarter
MARGIN = 2**16  # bytes of a file beside its items: headers, and what packing adds
IDX_UINT8 = 0x08  # the third byte of an IDX magic number; the fourth is the number of dimensions
STALLED_S = 15.0  # a connection silent for this long is given up
LOCK_WAIT_S = 3600.0  # longest wait for another process that downloads (EMNIST is 560 MB)
ELSEWHERE = f"give the folder of its files with --data-dir, or use dataset {SUBSET}"

DOWNLOAD_FAULTS = (
    RuntimeError, OSError, EOFError, http.client.HTTPException, zipfile.BadZipFile, zlib.error
)  # fmt: skip


class SubsetWarning(UserWarning):
    """`auto` could not have the full MNIST and used the small bundled subset instead."""


@dataclass(frozen=True)
class IdxFile:
    """One file of a dataset.

    Attributes:
        name: its name without `.gz`.
        dims: 3 for images (N, 28, 28), 1 for labels (N,).
        count: N; None where it is not known for certain.
        md5: of the unpacked bytes, where known.
        gz_md5: of the `.gz` file as its authors packed it, where known.
    """

    name: str
    dims: int
    count: int | None = None
    md5: str | None = None
    gz_md5: str | None = None


@dataclass(frozen=True)
class Source:
    """What is known of a dataset.

    Attributes:
        name: the name on the command line.
        files: training images, training labels, test images, test labels.
        classes: what the labels 0, 1, ... mean.
        folder: torchvision's folder for the files, below its root; for the bundled dataset the
            folder in the package.
        torchvision: its class in `torchvision.datasets`; empty if it is bundled, not downloaded.
        options: arguments of that class.
        validation: how many images at the end of the training file are for validation.
        first_label: the number that the files give to the first class.
        transposed: the files hold every image with rows and columns exchanged.
    """

    name: str
    files: tuple[IdxFile, ...]
    classes: tuple[str, ...]
    folder: str
    torchvision: str = ""
    options: dict[str, str] = field(default_factory=dict)
    validation: int = 10_000
    first_label: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Images:
    """A dataset in memory.

    Attributes:
        source: what is known of it; `source.name` is the name of what was really read.
        train_images: (N, 28, 28) uint8, 0 is the background.
        train_labels: (N,) int64 in 0..classes-1.
        test_images: like the training images.
        test_labels: like the training labels.
    """

    source: Source
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


# --- the registry ---------------------------------------------------------------------------

Hashes = tuple[str | None, ...]
UNKNOWN: Hashes = (None, None, None, None)


def _files(
    parts: tuple[str, str] = ("train", "t10k"),
    counts: tuple[int | None, int | None] = (60_000, 10_000),
    md5: Hashes = UNKNOWN,
    gz_md5: Hashes = UNKNOWN,
) -> tuple[IdxFile, ...]:
    """The four files by their usual names; hashes in the order of `Source.files`."""
    files: list[IdxFile] = []
    for part, count in zip(parts, counts, strict=True):
        for what, dims in (("images", 3), ("labels", 1)):
            index = len(files)
            name = f"{part}-{what}-idx{dims}-ubyte"
            files.append(IdxFile(name, dims, count, md5[index], gz_md5[index]))
    return tuple(files)


def _emnist(split: str, classes: str, first_label: int = 0) -> Source:
    """A split of EMNIST (Cohen et al. 2017).

    Only a checksum of the whole archive is known, which torchvision compares when it downloads;
    descriptions of the dataset differ in the counts of its letters, so none is pinned.
    """
    return Source(
        name=f"emnist-{split}",
        files=_files((f"emnist-{split}-train", f"emnist-{split}-test"), (None, None)),
        classes=tuple(classes),
        folder="EMNIST/raw",
        torchvision="EMNIST",
        options={"split": split},
        first_label=first_label,
        transposed=True,
    )


_ALL = (
    Source(
        name=FULL,
        files=_files(
            # the unpacked bytes, because copies of MNIST are often packed anew
            md5=(
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            gz_md5=(
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        classes=tuple(string.digits),
        folder="MNIST/raw",
        torchvision="MNIST",
    ),
    Source(
        name=SUBSET,
        files=_files(
            counts=(5_000, 1_000),
            md5=(
                "11408a98df4b262233113a946cf9fb2f",
                "0592ba1de58c309b823f6a6d98ea8940",
                "ed0d7b5f68249c9ad299885221e7894d",
                "c993747e3d89c54ee1177f89d30aa8ef",
            ),
        ),
        classes=tuple(string.digits),
        folder=SUBSET,
        validation=1_000,
    ),
    Source(
        name="fashion-mnist",
        files=_files(
            gz_md5=(
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            )
        ),
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        folder="FashionMNIST/raw",
        torchvision="FashionMNIST",
    ),
    Source(
        name="kmnist",
        files=_files(
            gz_md5=(
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            )
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        folder="KMNIST/raw",
        torchvision="KMNIST",
    ),
    _emnist("digits", string.digits),
    _emnist("letters", string.ascii_lowercase, first_label=1),
    # upper and lower case of the other letters look alike and share a class
    _emnist("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt"),
)  # fmt: skip

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
NAMES = (AUTO, *SOURCES)


# --- getting a dataset ----------------------------------------------------------------------


def images(name: str, data_dir: Path | None = None) -> Images:
    """The images and labels of a dataset, read and checked.

    Args:
        name: one of `NAMES`; `auto` is the full MNIST where it can be had, else the bundled
            subset with a `SubsetWarning`.
        data_dir: the folder of the IDX files (packed or not), or torchvision's root above it;
            nothing is downloaded then, and `auto` does not fall back. None looks in the cache
            and downloads what is not there. The bundled subset needs neither.

    Raises:
        ConfigError: no dataset has that name.
        DataError: files are missing, damaged, of another dataset, or cannot be downloaded.
    """
    if name not in NAMES:
        raise ConfigError(f"dataset: unknown dataset {name!r} ({nearest(name, NAMES)})")
    if name != AUTO:
        return _read_all(SOURCES[name], _locate(SOURCES[name], data_dir))
    try:
        return images(FULL, data_dir)
    except DataError as error:
        if data_dir is not None:
            raise
        message = (
            f"dataset=auto: using the bundled {SUBSET} (5,000 training and 1,000 test images) "
            f"instead of the full MNIST, so errors do not compare with published ones: {error}"
        )
        warnings.warn(SubsetWarning(message), stacklevel=2)
        return images(SUBSET)


def cache_folder() -> Path:
    """Where downloaded datasets are kept, in torchvision's layout."""
    return Path(platformdirs.user_cache_dir("fwt", appauthor=False)) / "datasets"


def _locate(source: Source, data_dir: Path | None) -> list[Path]:
    """The paths of the four files, downloaded if they must be."""
    if not source.torchvision:
        return _find(source, BUNDLED)
    if data_dir is not None:
        return _find(source, Path(data_dir))
    root = cache_folder()
    if not _is_complete(source, root):
        _download(source, root)
    return _find(source, root)


def _find(source: Source, root: Path) -> list[Path]:
    """The paths of the four files, in `root` itself or in torchvision's folder below it."""
    folders = [root]
    if (root / source.folder).is_dir():
        folders.append(root / source.folder)
    candidates = [(folder, _paths_in(folder, source)) for folder in folders]
    folder, paths = min(candidates, key=lambda candidate: candidate[1].count(None))
    missing = [f.name for f, path in zip(source.files, paths, strict=True) if path is None]
    if missing:
        raise DataError(
            f"dataset {source.name!r}: {folder}: expected {', '.join(missing)} (each with or "
            f"without .gz), found none of that name; put the files there or name their folder "
            f"with --data-dir"
        )
    return [path for path in paths if path is not None]


def _paths_in(folder: Path, source: Source) -> list[Path | None]:
    """The path of each file in `folder`, packed before unpacked, None where there is neither."""
    try:
        present = set(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"dataset {source.name!r}: {folder}: expected a folder that can be read, got "
            f"{error.strerror!r}; name the folder of its files with --data-dir"
        ) from error
    return [
        next((folder / name for name in (f"{file.name}.gz", file.name) if name in present), None)
        for file in source.files
    ]


def _is_complete(source: Source, root: Path) -> bool:
    """Whether the cache `root` has every file of the dataset."""
    folder = root / source.folder
    return folder.is_dir() and None not in _paths_in(folder, source)


# --- reading --------------------------------------------------------------------------------


def _read_all(source: Source, paths: list[Path]) -> Images:
    arrays = [_read(path, file, source) for path, file in zip(paths, source.files, strict=True)]
    for images_at, labels_at in ((0, 1), (2, 3)):
        if len(arrays[images_at]) != len(arrays[labels_at]):
            raise DataError(
                f"{paths[labels_at]}: expected {len(arrays[images_at])} labels, one for each "
                f"image of {paths[images_at].name}, got {len(arrays[labels_at])}; fetch both again"
            )
    train_images, train_labels, test_images, test_labels = arrays
    return Images(
        source,
        _upright(train_images, source),
        _numbered(train_labels, source, paths[1]),
        _upright(test_images, source),
        _numbered(test_labels, source, paths[3]),
    )


def _upright(pixels: Array, source: Source) -> Array:
    return np.ascontiguousarray(pixels.transpose(0, 2, 1)) if source.transposed else pixels


def _numbered(raw: Array, source: Source, path: Path) -> Array:
    """Labels as int64 counted from 0."""
    labels = raw.astype(np.int64) - source.first_label
    if labels.size and not 0 <= labels.min() <= labels.max() < len(source.classes):
        first, last = source.first_label, source.first_label + len(source.classes) - 1
        raise DataError(
            f"{path}: expected labels {first}..{last} of dataset {source.name!r}, got "
            f"{raw.min()}..{raw.max()}; this is another dataset's file"
        )
    return labels


def _read(path: Path, file: IdxFile, source: Source) -> Array:
    """One file: unpacked, its structure checked, then its count and its checksum."""
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
    _check_md5(path, stored, content, file, source)
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


def _decode(content: bytes, path: Path, dims: int) -> Array:
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


def _check_md5(path: Path, stored: bytes, content: bytes, file: IdxFile, source: Source) -> None:
    """Compare with the known checksums; one that matches is enough, as copies get packed anew."""
    packed = [(file.gz_md5, stored)] if stored is not content else []
    known = [(md5, data) for md5, data in [*packed, (file.md5, content)] if md5 is not None]
    if not known:
        _check_owner(path, content, source)
        return
    found = ""
    for expected, data in known:
        found = _md5(data)
        if found == expected:
            return
    raise DataError(
        f"{path}: expected md5 {known[-1][0]} of dataset {source.name!r}, got md5={found}; the "
        "file is damaged or another dataset's: delete it and fetch it again"
    )


def _check_owner(path: Path, content: bytes, source: Source) -> None:
    """Without a checksum of its own, a file must at least not be that of another dataset.

    The files of MNIST, Fashion-MNIST and KMNIST have the same names and lengths.
    """
    found = _md5(content)
    for other in SOURCES.values():
        if found in [file.md5 for file in other.files]:
            raise DataError(
                f"{path}: expected a file of dataset {source.name!r}, got one of {other.name!r} "
                f"(md5={found}); name the right folder with --data-dir"
            )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


# --- downloading ----------------------------------------------------------------------------


def _download(source: Source, root: Path) -> None:
    """Fetch the dataset into the cache `root`, whole or not at all.

    One process downloads at a time. The files arrive in a temporary folder inside the cache, are
    checked there and then renamed into place, so a half download is never taken for a whole one.
    """
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise DataError(
            f"dataset {source.name!r}: not in {root} and {OFFLINE}={os.environ[OFFLINE]} forbids "
            f"downloading; unset it, {ELSEWHERE}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".lock", timeout=LOCK_WAIT_S):
            if not _is_complete(source, root):
                _fetch_into(source, root)
    except filelock.Timeout as error:
        raise DataError(
            f"dataset {source.name!r}: another process has held {root / '.lock'} for "
            f"{LOCK_WAIT_S:.0f} s; wait for it, {ELSEWHERE}"
        ) from error
    except OSError as error:
        raise DataError(
            f"dataset {source.name!r}: expected to write into {root}, got {_one_line(error)}; "
            f"free or permit that folder, {ELSEWHERE}"
        ) from error


def _fetch_into(source: Source, root: Path) -> None:
    """Fetch, check, rename; the caller holds the lock."""
    prefix = ".partial-"
    for left_behind in root.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(left_behind)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as name:
        partial = Path(name)
        _fetch(source, partial)
        _read_all(source, _find(source, partial))
        _keep_idx_files(partial / source.folder)
        top = Path(source.folder).parts[0]
        if (root / top).exists():  # incomplete, or the caller would not fetch it
            rename(root / top, partial / "replaced")
        rename(partial / top, root / top)


def _keep_idx_files(folder: Path) -> None:
    """Delete what no dataset here reads (EMNIST leaves its archive and two more splits)."""
    read = {file.name for source in SOURCES.values() for file in source.files}
    for path in folder.iterdir():
        if path.is_file() and path.name.removesuffix(".gz") not in read:
            path.unlink()


def _fetch(source: Source, folder: Path) -> None:
    """Let torchvision download and unpack the dataset below `folder`."""
    dataset = getattr(_torchvision_datasets(source), source.torchvision)
    try:
        # its progress bars belong on stderr: stdout is for results
        with contextlib.redirect_stdout(sys.stderr), _impatient_sockets():
            dataset(str(folder), train=True, download=True, **source.options)
    except DOWNLOAD_FAULTS as error:
        raise DataError(
            f"dataset {source.name!r}: the download failed ({_one_line(error)}); check the "
            f"network, {ELSEWHERE}"
        ) from error


def _torchvision_datasets(source: Source) -> Any:
    try:
        return importlib.import_module("torchvision.datasets")
    except Exception as error:  # a torchvision built for another torch raises almost anything
        raise DataError(
            f"dataset {source.name!r}: torchvision is needed to download it and did not import "
            f"({_one_line(error)}); install the torchvision that belongs to your torch, {ELSEWHERE}"
        ) from error


@contextlib.contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Give up on silent connections; torchvision itself would wait without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    """An exception's type and the start of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
