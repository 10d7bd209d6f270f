"""What this process may have of its machine: memory and cores, within the limits of a container.

Linux limits a process by its control groups, those above its own included: version 2 in one tree
(`memory.max`, `cpu.max`), version 1 in a tree for each controller. Elsewhere there are none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")

LIMIT, USED = ("memory.max", "memory.limit_in_bytes"), ("memory.current", "memory.usage_in_bytes")


def memory_bytes() -> int:
    """Bytes of memory: those of the machine, or the least limit."""
    limits = [limit for limit, _ in _memory()]
    return min([int(psutil.virtual_memory().total), *limits])


def free_bytes() -> int:
    """Bytes that may still be taken: of the machine, and of each group with a limit."""
    left = [limit - used for limit, used in _memory()]
    return min([int(psutil.virtual_memory().available), *left])


def cores() -> int:
    """Physical cores, but no more than this process may run on and its groups pay for; >= 1."""
    usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    return max(1, min([psutil.cpu_count(logical=False) or usable, usable, *_quotas()]))


def _memory() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each group that has a limit."""
    for folder in _folders("memory"):
        for names in zip(LIMIT, USED, strict=True):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None:
                yield limit, used or 0


def _quotas() -> Iterator[int]:
    """Whole cores of each group whose time is limited."""
    for folder in _folders("cpu"):
        quota, period = _number(folder / "cpu.max"), _number(folder / "cpu.max", 1)
        if quota is None:
            quota = _number(folder / "cpu.cfs_quota_us")
            period = _number(folder / "cpu.cfs_period_us")
        if quota is not None and period:
            yield quota // period


def _folders(controller: str) -> Iterator[Path]:
    """The group of this process for a controller, and those above it that can be seen."""
    try:
        lines = GROUPS.read_text("utf-8").splitlines()
    except OSError:  # no Linux, or no control groups
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = MOUNT / names if names else MOUNT
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth])


def _number(path: Path, place: int = 0) -> int | None:
    """A number of a file, words counted from 0; None for `max`, -1, or no such file."""
    try:
        word = path.read_text("utf-8").split()[place]
    except (OSError, IndexError):
        return None
    return int(word) if word.isdigit() else None
