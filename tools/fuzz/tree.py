"""The files of a case: a folder's content as data, so that it can be damaged before it is made."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.dice import Dice


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


def taken(folder: Path) -> Tree:
    """A folder that is there as a tree; locks have no content and are left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def put(folder: Path, tree: Tree) -> None:
    """Make a tree in a folder, in the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made: set[str] = set()
    for name, entry in tree.items():
        above, _, _ = name.rpartition("/")
        if above and above not in made:
            (folder / above).mkdir(parents=True, exist_ok=True)
            made.add(above)
        path = os.path.join(folder, name)
        if isinstance(entry, bytes):
            with open(path, "wb") as file:
                file.write(entry)
        elif isinstance(entry, Link):
            os.symlink(entry.target, path)
        elif isinstance(entry, Pipe):
            os.mkfifo(path)
        else:
            os.mkdir(path)


def rearranged(dice: Dice, tree: Tree) -> Tree:
    """A tree with a file that is gone, exchanged with another, or no plain file any more."""
    names = list(tree)
    name = dice.pick(names)
    up = "../" * name.count("/")
    found = dict(tree)
    act = dice.below(8)
    if act == 0:
        del found[name]
    elif act == 1:
        other = dice.pick(names)
        found[name], found[other] = tree[other], tree[name]
    elif act == 2:
        found[name] = Pipe()
    elif act == 3:
        found[name] = Folder()
    elif act == 4:
        found[name] = Link(
            dice.pick(("/dev/zero", "/dev/null", name.rpartition("/")[2], "nowhere"))
        )
    elif act == 5:
        found[name] = Link(f"{up}{OUTSIDE}/kept")
    elif act == 6 and "/" in name:  # a whole folder is a link
        top = name.partition("/")[0]
        found = {key: entry for key, entry in tree.items() if not key.startswith(f"{top}/")}
        found[top] = Link(dice.pick((OUTSIDE, "/dev", ".", "nowhere")))
    else:
        above = name.rpartition("/")[0]
        extra = f".{name.rpartition('/')[2]}.partial"
        found[f"{above}/{extra}" if above else extra] = dice.pick(
            (Link(f"{up}{OUTSIDE}/kept"), b"half", Folder())
        )
    return found
