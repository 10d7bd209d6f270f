"""A folder's content as data, so that it can be damaged before it is made."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Pipe:
    """A named pipe that nobody writes to."""


@dataclass(frozen=True)
class Folder:
    """A folder where a file is expected."""


Entry = bytes | Link | Pipe | Folder
Tree = dict[str, Entry]  # path, parts separated by /, -> what is there

OUTSIDE = "../outside"  # a folder beside the case's, which nothing may touch


def size(tree: Tree) -> int:
    """Bytes of all files."""
    return sum(len(entry) for entry in tree.values() if isinstance(entry, bytes))


def tree_of(folder: Path) -> Tree:
    """The files of a folder as a tree; locks have no content and are left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def put(folder: Path, tree: Tree) -> None:
    """Make a tree in a folder, in the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, entry in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, bytes):
            path.write_bytes(entry)
        elif isinstance(entry, Link):
            path.symlink_to(entry.target)
        elif isinstance(entry, Pipe):
            os.mkfifo(path)
        else:
            path.mkdir()
