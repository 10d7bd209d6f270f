"""A sweep as plain data: its `summary.json`, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from fwt.fwcore.errors import ConfigError, FileError
from fwt.fwcore.frozen import Frozen, Items
from fwt.fwcore.storage import checkpoint

FILE = "summary.json"

Values = dict[str, pydantic.JsonValue]


class Ended(Frozen):
    """A run of a sweep; `run` is its folder below that of all runs. See `fwt.sweep.result`."""

    seed: int
    run: str
    failure: str | None
    val_error_pct: float | None = None
    val_loss: float | None = None
    best_step: int | None = None
    steps: int | None = None
    train_s: float | None = None


class Trial(Frozen):
    """A setting and its runs; percent and nats are means over the seeds, None where one failed."""

    settings: Values
    val_error_pct: float | None
    val_error_sd: float | None
    val_loss: float | None
    runs: Items[Ended]


class Group(Frozen):
    """Settings among which one was chosen, the best first."""

    label: str
    model: str
    fixed: Values
    parameters: int | None
    tried: int
    chosen: Values | None
    command: str | None
    trials: Items[Trial]


class Summary(Frozen):
    """What a sweep found."""

    format_version: Literal[1]
    name: str
    objective: str
    budget: int
    seeds: int
    sampler: str
    task: str
    backend: str
    control: str | None
    base: Values
    search: Values
    groups: Items[Group]


def read(folder: Path) -> Summary:
    """The summary in a sweep's folder; see `read_file`."""
    return read_file(folder / FILE)


def read_file(path: Path) -> Summary:
    """The summary of a sweep.

    Raises:
        FileError: it is damaged, or of another format.
    """
    try:
        return Summary.parse(checkpoint.read_object(path), str(path))
    except ConfigError as error:
        raise FileError(f"{error}; write it again with fwt sweep") from error


def root(folder: Path) -> Path:
    """The folder of all runs, which holds `sweeps/<name>`."""
    return folder.resolve().parent.parent


def facts(folder: Path, found: Summary) -> dict[str, Any]:
    """The summary with where it lies, for the page."""
    return {"sweep": str(folder), **found.json_data()}
