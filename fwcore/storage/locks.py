"""Locks between processes: who may write in a run, in a sweep, or in a file of results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fwt.fwcore.errors import FileError, InUseError
from fwt.fwcore.storage.durable import make_folder

FILE = ".lock"


def take(lock: filelock.BaseFileLock, where: str, advice: str, wait: float = 0.0) -> None:
    """Take a lock, which its process keeps until it releases it or ends.

    Args:
        lock: of a file in the folder that it is about.
        where: the beginning of an error.
        advice: what to do if another process has it, the end of an error.
        wait: seconds that another process is waited for.

    Raises:
        InUseError: another process has it.
        FileError: the folder cannot be written.
    """
    folder = Path(lock.lock_file).parent
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout:
        raise InUseError(f"{where}: {folder} is in use by another process; {advice}") from None
    except OSError as error:
        raise FileError(f"{where}: {folder} cannot be written: {error.strerror}") from error


def is_taken(folder: Path) -> bool:
    """Whether a process, this one included, has the lock of a folder, or nobody can tell."""
    if not (folder / FILE).exists():
        return False
    lock = filelock.FileLock(folder / FILE)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


@contextmanager
def held(folder: Path, where: str, advice: str, wait: float = 0.0) -> Iterator[None]:
    """The lock of a folder, which is made if it is not there; see `take`."""
    make_folder(folder)
    lock = filelock.FileLock(folder / FILE)
    take(lock, where, advice, wait)
    try:
        yield
    finally:
        lock.release()
