"""Files that last: written whole or not at all, and on the disk as far as the system offers it.

Not every file system syncs folders (CIFS, FUSE), and Windows opens none; it syncs a file through a
writable handle alone, and lets no file be replaced while another process has it open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fwt.fwcore.errors import FileError

# what says that a system has no such call; EIO, ENOSPC and the like say that data is lost
NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
NO_FOLDERS = NOT_OFFERED | {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF}
IN_USE = (5, 32, 33)  # Windows: access denied, sharing violation, lock violation
WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds between tries to replace what is in use


def _fsync(handle: int, not_offered: set[int]) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in not_offered:
            raise


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it cannot be opened for writing, or the disk fails.
    """
    with path.open("r+b") as file:
        _fsync(file.fileno(), NOT_OFFERED)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can sync folders.

    Raises:
        OSError: the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FOLDERS:
            return
        raise
    try:
        _fsync(handle, NO_FOLDERS)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file that has it already is replaced.

    What Windows refuses because another process has the file open is tried again for a second.

    Raises:
        OSError: it cannot be renamed.
    """
    for wait in (*WAITS, None):
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if wait is None or getattr(error, "winerror", None) not in IN_USE:
                raise
            time.sleep(wait)


def partial_of(path: Path) -> Path:
    """Where a file or folder is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def create(path: Path, content: bytes) -> None:
    """A new file, on the disk.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        _fsync(file.fileno(), NOT_OFFERED)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    partial = partial_of(path)
    try:
        partial.unlink(missing_ok=True)  # else what a link there points at would be written
        create(partial, content)
        rename(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first failure is the news
            partial.unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    r"""Write text as UTF-8, whole or not at all.

    A name of a file that is no UTF-8 may be in it; its bytes are written as escapes, `\udce9`.

    Raises:
        FileError: it cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def make_folder(path: Path) -> None:
    """A folder and those above it, if they are not there.

    Raises:
        FileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """The same, for as long as it takes to fill it: if that fails, none that is empty is left.

    Raises:
        OSError: it cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):  # something is in it
                each.rmdir()
        raise
