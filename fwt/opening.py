"""A checkpoint with its task and its data, as `eval`, `verify` and `convert` need it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fwt import backends, tasks
from fwt.backends.contract import Compiled
from fwt.data import load
from fwt.fwcore import limits
from fwt.fwcore import memory as memories
from fwt.fwcore.analysis.estimate import check_memory
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.storage.foreign import PT_SUFFIXES
from fwt.fwcore.storage.runs import find_checkpoint
from fwt.tasks.base import Task


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
        ConfigError: it is of another task, or its examples cannot fit into memory.
    """
    found = find_checkpoint(path)
    kind = found.spec.task.get("kind")
    if task is not None and kind != task:
        raise ConfigError(f"{path}: expected a checkpoint of task {task!r}, got task={kind!r}")
    options = dict(found.spec.task) | ({"dataset": dataset} if dataset else {})
    subject = load(tasks.parse(options, str(path)), data_dir)
    check_memory(subject.data_bytes, limits.memory_bytes(), "this machine")
    return found, subject


def check_form(spec: ModelSpec, form: str) -> None:
    """Refuse a form of the fast memory that is unknown, or that the model has no use for.

    Raises:
        ConfigError: with the nearest name.
    """
    memories.plan(form, 1, 1, 1, 1)
    if form != "auto" and not spec.core.memory_reads:
        raise ConfigError(
            f"--memory: expected auto because the model {spec.core.kind!r} reads no fast memory, "
            f"got memory={form!r}"
        )


def on_backend(
    name: str, found: Checkpoint, device: str, memory: str, dtype: str | None = None
) -> Compiled:
    """A checkpoint's model on a backend.

    Args:
        name: the backend's name.
        found: the checkpoint.
        device: see `Backend.compile`.
        memory: a form of the fast memory.
        dtype: the number type; None takes that of the checkpoint. NumPy computes in float64.
    """
    backend = backends.load(name, found.spec.train.precision if dtype is None else "highest")
    check_form(found.spec.model, memory)
    kind = "auto" if backend.name == "numpy" else dtype or found.spec.train.dtype
    return backend.compile(found.spec.model, found.params, device=device, dtype=kind, memory=memory)


def pt_reader(source: Path) -> Callable[[Path], Any] | None:
    """What reads a `.pt` file, for a source that is one; it needs the torch backend."""
    if source.suffix.lower() not in PT_SUFFIXES:
        return None
    backends.load("torch")
    from fwt.backends.torch.foreign import read_state_dict

    return read_state_dict
