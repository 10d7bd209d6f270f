"""The image datasets: where their IDX files lie, and how they are had."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import shutil
import socket
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from fwt.fwcore.errors import ConfigError, DataError, nearest
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage.durable import rename
from fwt.tasks import idx
from fwt.tasks.sources import AUTO, FULL, NAMES, SOURCES, SUBSET, Source

BUNDLED = Path(__file__).parent / "data"
OFFLINE = "FWT_OFFLINE"  # environment variable: set to 1, nothing is ever downloaded

STALLED_S = 15.0  # a connection silent for this long is given up
LOCK_WAIT_S = 3600.0  # longest wait for another process that downloads (EMNIST is 560 MB)
ELSEWHERE = f"give the folder of its files with --data-dir, or use dataset {SUBSET}"

DOWNLOAD_FAULTS = (
    RuntimeError, OSError, EOFError, http.client.HTTPException, zipfile.BadZipFile, zlib.error
)  # fmt: skip


class SubsetWarning(UserWarning):
    """`auto` could not have the full MNIST and used the small bundled subset instead."""


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
    train_images: NumpyArray
    train_labels: NumpyArray
    test_images: NumpyArray
    test_labels: NumpyArray


# --- getting a dataset ----------------------------------------------------------------------


def images(name: str, data_dir: Path | None = None) -> Images:
    """The images and labels of a dataset, read and checked.

    Args:
        name: one of `NAMES`; `auto` is the full MNIST where it can be had, else the bundled
            subset with a `SubsetWarning`.
        data_dir: the folder of the IDX files (packed or not), or torchvision's root above it;
            nothing is downloaded then, and `auto` does not fall back. None looks in the cache
            and downloads what is not there. The bundled subset has no other folder.

    Raises:
        ConfigError: no dataset has that name, or the bundled one is given a folder.
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
        if data_dir is not None:
            raise ConfigError(
                f"dataset {source.name!r}: expected no folder, because it is bundled, got "
                f"data_dir={str(data_dir)!r}; leave it out, or name another dataset"
            )
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
    arrays = [idx.read(path, file, source) for path, file in zip(paths, source.files, strict=True)]
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


def _upright(pixels: NumpyArray, source: Source) -> NumpyArray:
    return np.ascontiguousarray(pixels.transpose(0, 2, 1)) if source.transposed else pixels


def _numbered(raw: NumpyArray, source: Source, path: Path) -> NumpyArray:
    """Labels as int64 counted from 0."""
    labels = raw.astype(np.int64) - source.first_label
    if labels.size and not 0 <= labels.min() <= labels.max() < len(source.classes):
        first, last = source.first_label, source.first_label + len(source.classes) - 1
        raise DataError(
            f"{path}: expected labels {first}..{last} of dataset {source.name!r}, got "
            f"{raw.min()}..{raw.max()}; this is another dataset's file"
        )
    return labels


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
