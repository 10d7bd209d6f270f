"""The tasks: a lazy registry from a task's name to its module. No framework is imported here."""

from __future__ import annotations

if __name__ == "tasks":
    raise ImportError("tasks: its import name is fwt.tasks", name="tasks")

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwt.fwcore.errors import ConfigError, nearest

if TYPE_CHECKING:
    from fwt.tasks.base import Reader, Task, TaskSpec

# name -> module; each module has `Spec` (a TaskSpec), `load(spec, data_dir) -> Task` and
# `reader(spec) -> Reader`
TASKS: dict[str, str] = {
    "retrieval": "fwt.tasks.retrieval",
    "mnist-glimpse": "fwt.tasks.mnist_glimpse",
}


def _module(kind: object, where: str) -> Any:
    if not isinstance(kind, str) or kind not in TASKS:
        raise ConfigError(f"{where}: unknown task {kind!r} ({nearest(str(kind), TASKS)})")
    return importlib.import_module(TASKS[kind])


def parse(data: Mapping[str, Any], where: str = "task") -> TaskSpec:
    """A task's options from plain JSON data; `data["kind"]` names the task.

    Raises:
        ConfigError: for an unknown task, key or value.
    """
    spec: TaskSpec = _module(data.get("kind"), where).Spec.parse(data, where)
    return spec


def load(spec: TaskSpec, data_dir: Path | None = None) -> Task:
    """The task with its data at hand.

    Args:
        spec: the task's options.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.

    Raises:
        ConfigError: there is a folder for a task that reads no files.
        DataError: the data is missing, damaged or cannot be had.
    """
    if data_dir is not None and not spec.reads_files:
        options = spec.json_data()
        what = ", ".join(f"{key}={options[key]}" for key in ("kind", "dataset") if key in options)
        raise ConfigError(
            f"--data-dir: expected none, because the task ({what}) reads no files, got "
            f"data_dir={str(data_dir)!r}; leave it out"
        )
    task: Task = _module(spec.kind, "task").load(spec, data_dir)
    return task


def reader(spec: TaskSpec) -> Reader:
    """What the task makes of one example; no data is looked for."""
    made: Reader = _module(spec.kind, "task").reader(spec)
    return made
