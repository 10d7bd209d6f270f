"""The trained networks that ship with fwt, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, cast

INDEX = "index.json"
HERE = Path(__file__).parent


class Slice(TypedDict):
    """The examples whose answers every backend is to give again, and how many are wrong."""

    dataset: str
    split: str
    examples: int
    wrong: int


class Network(TypedDict):
    """What the index says of a network; errors are in percent, `train_s` is in seconds."""

    task: str
    model: str
    size: int
    seed: int
    dataset: str
    digest: str
    parameters: int
    test_error_pct: float
    test_examples: int
    val_error_pct: float
    best_step: int
    steps: int
    train_s: float
    published_pct: float
    backend: str
    device: str
    commit: str
    command: str
    slice: Slice
    bytes: int
    sha256: dict[str, str]


def folder() -> Path:
    """Where they lie: in an installed fwt within it, in a checkout beside it."""
    installed = HERE / "checkpoints"
    return installed if installed.is_dir() else HERE.parent / "checkpoints"


def index() -> dict[str, Network]:
    """Name -> what is known of the network, of those that lie here.

    Raises:
        CheckpointError: the index is damaged.
    """
    from fwt.fwcore.storage.checkpoint import read_object

    path = folder() / INDEX
    if not path.is_file():
        return {}
    every = cast(dict[str, Network], read_object(path))
    return {name: facts for name, facts in every.items() if (path.parent / name).is_dir()}


def find(source: Path) -> Path:
    """A path that a user gave, or the folder of the shipped network of that name.

    What is there under the path comes first.
    """
    if source.name == str(source) and not source.exists() and (folder() / source).is_dir():
        return folder() / source
    return source
