"""The trained networks that ship with fwt, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INDEX = "index.json"
HERE = Path(__file__).parent


def folder() -> Path:
    """Where they lie: in an installed fwt within it, in a checkout beside it."""
    installed = HERE / "checkpoints"
    return installed if installed.is_dir() else HERE.parent / "checkpoints"


def index() -> dict[str, dict[str, Any]]:
    """Name -> what is known of the network, of those that lie here.

    Raises:
        CheckpointError: the index is damaged.
    """
    from fwt.fwcore.storage.checkpoint import read_object

    path = folder() / INDEX
    if not path.is_file():
        return {}
    return {
        name: facts for name, facts in read_object(path).items() if (path.parent / name).is_dir()
    }


def find(source: Path) -> Path:
    """A path that a user gave, or the folder of the shipped network of that name.

    What is there under the path comes first.
    """
    if source.name == str(source) and not source.exists() and (folder() / source).is_dir():
        return folder() / source
    return source
