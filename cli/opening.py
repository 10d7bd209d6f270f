"""A checkpoint with its task and its data, as `eval`, `verify` and `convert` need it."""

from __future__ import annotations

from pathlib import Path

import backends
import tasks
from backends.contract import Backend, Compiled
from fwcore.checkpoint import Checkpoint
from fwcore.errors import ConfigError
from fwcore.runs import find_checkpoint
from tasks.base import Task


def opened(
    path: Path, data_dir: Path | None, task: str | None, dataset: str | None = None
) -> tuple[Checkpoint, Task]:
    """A checkpoint and the task it was trained on, data at hand.

    Args:
        path: a run, a checkpoint folder or a model file.
        data_dir: where the dataset's files lie.
        task: the task it must be of, or None for any.
        dataset: another dataset of the same task, or None for that of the checkpoint.

    Raises:
        CheckpointError: it is missing or damaged.
        ConfigError: it is of another task.
    """
    found = find_checkpoint(path)
    kind = found.spec.task.get("kind")
    if task is not None and kind != task:
        raise ConfigError(f"{path}: expected a checkpoint of task {task!r}, got task={kind!r}")
    options = dict(found.spec.task) | ({"dataset": dataset} if dataset else {})
    return found, tasks.load(tasks.parse(options, str(path)), data_dir)


def compile_on(backend: Backend, found: Checkpoint, device: str, memory: str) -> Compiled:
    """A checkpoint's model on a backend, in its own number type (NumPy: float64)."""
    dtype = "auto" if backend.name == "numpy" else found.spec.train.dtype
    return backend.compile(
        found.spec.model, found.params, device=device, dtype=dtype, memory=memory
    )


def on_backend(name: str, found: Checkpoint, device: str, memory: str) -> Compiled:
    """`compile_on` by the backend's name."""
    return compile_on(backends.load(name, found.spec.train.precision), found, device, memory)
