"""Where MLX keeps the kernels that it compiles for CPUs: a folder of this user alone.

MLX compiles into `mlx/<version>/cpu` of the temporary folder and loads what lies there under the
name that it looks for, which anyone can foresee: in a folder that others may write, their code.
"""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

VARIABLE = "TMPDIR"  # the first that MLX asks for a temporary folder, at each kernel it compiles


def cache_folder() -> Path:
    """Where kernels are kept between processes, for this machine: homes are shared by many."""
    cache = Path(platformdirs.user_cache_dir("fwt", appauthor=False))
    return cache / f"kernels-{platform.node()}-{platform.machine()}"


def is_private(folder: Path) -> bool:
    """Whether a folder, and no link to one, is this user's alone, and nobody else can replace it.

    Raises:
        OSError: it cannot be looked at.
    """
    mine = folder.lstat()
    if not stat.S_ISDIR(mine.st_mode) or mine.st_uid != os.getuid() or mine.st_mode & 0o077:
        return False
    for parent in folder.resolve().parents:
        above = parent.stat()
        if above.st_uid not in (0, os.getuid()):
            return False
        if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
            return False
    return True


@cache
def private_folder() -> Path:
    """`cache_folder`, made if it is not there; where that is not private, one for this process."""
    folder = cache_folder()
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:  # no home, a full disk, a cache that cannot be written
        pass
    own = Path(tempfile.mkdtemp(prefix="fwt-kernels-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def use_private_folder() -> None:
    """Send what MLX compiles from now on into a private folder, until the process ends.

    It holds for the process, since MLX compiles when an array is asked for, which may be after
    our call. Python's own temporary folder stays what it was; child processes inherit the new one.
    """
    tempfile.gettempdir()  # is found once, and kept
    os.environ[VARIABLE] = str(private_folder())
