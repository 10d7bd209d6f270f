"""Paths that a person gives: expanded once, refused where they cannot be, shown so that all can.

The rest of the package takes a path as it is: a second expansion would take a folder that is called
`~` for a home.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from fwt.fwcore.errors import ConfigError, FileError


def expand(given: str | os.PathLike[str]) -> Path:
    """The path that was given, with `~` and `~user` as home folders.

    What it names need not be there, but the system must be able to look for it, and into it where
    it is a folder.

    Raises:
        ConfigError: it is empty.
        FileError: it is too long, no text of this system, a loop of links, not permitted, or
            begins with `~` and no user's name.
    """
    text = os.fspath(given)
    if not text:
        raise ConfigError("expected a path, got ''; name a file or folder, or leave it out")
    path = Path(os.path.expanduser(text))
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            os.stat(os.path.join(path, "."))  # asks for the right to look into it
    except (FileNotFoundError, NotADirectoryError):
        if path.parts[0].startswith("~") and text.startswith("~"):
            raise FileError(
                f"{path}: no user of the name {path.parts[0][1:]!r} here; "
                f"write ./{path} for a file of that name"
            ) from None
    except OSError as error:
        raise FileError(f"{path}: cannot be looked for: {error.strerror}") from error
    except ValueError as error:  # a NUL, or what the system's encoding cannot hold
        raise FileError(f"{text!r}: is no path: {error}") from error
    return path


def show(path: str | os.PathLike[str]) -> str:
    r"""A path on one line that any stream can hold and that steers no terminal.

    Bytes that are no UTF-8 are shown as `\udce9`, a line's end as `\n`.
    """
    text = os.fspath(path)
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def quote(path: str | os.PathLike[str]) -> str:
    r"""A path as a word of a command that a person may paste into a shell.

    What cannot be printed is written in the shell's own escapes, `$'caf\351'`.
    """
    text = os.fspath(path)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_octal, text))}'"


def _octal(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
