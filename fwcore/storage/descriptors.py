"""How many files a process may hold open at once: asked for before anything is made.

A run that is trained holds its lock, an open file, so that many runs together need as many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fwt.fwcore.errors import ConfigError

try:
    import resource
except ImportError:  # Windows, whose limit no population reaches
    resource = None  # type: ignore[assignment]

SPARE = 64  # files that all else may need meanwhile: checkpoints, libraries, connections
OPEN = "/dev/fd"  # what this process has open, on Linux and macOS


def _limit(which: int) -> float:
    """The soft (0) or hard (1) limit of open files; infinity where there is none."""
    if resource is None:
        return float("inf")
    found = resource.getrlimit(resource.RLIMIT_NOFILE)[which]
    return float("inf") if found == resource.RLIM_INFINITY else found


def _spoken_for() -> int:
    """Files that are open, and those that are kept for all else."""
    return (len(os.listdir(OPEN)) if os.path.isdir(OPEN) else 0) + SPARE


def room() -> int:
    """How many more files can be held open at once, at least 1."""
    return int(max(1, min(_limit(1), 2**31) - _spoken_for()))


@contextmanager
def room_for(count: int, what: str) -> Iterator[None]:
    """Room for `count` more open files; the soft limit is raised where needed, and put back.

    Args:
        count: files that will be held open at once.
        what: what needs them; the beginning of the error.

    Raises:
        ConfigError: the hard limit does not allow it.
    """
    needed, soft, hard = count + _spoken_for(), _limit(0), _limit(1)
    if needed > hard:
        raise ConfigError(
            f"{what}: expected a limit of at least {needed} open files, got {hard:g}; raise it "
            "(ulimit -n) or take fewer at once"
        )
    if needed <= soft:
        yield
        return
    assert resource is not None  # noqa: S101 a limit was found by it
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
