"""A checkpoint's task and its model on a backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fwt import backends, data, tasks
from fwt.backends.contract import Compiled
from fwt.fwcore import limits
from fwt.fwcore import memory as memories
from fwt.fwcore.analysis.estimate import check_memory
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.storage.foreign import PT_SUFFIXES
from fwt.tasks.base import Task


def task_of(checkpoint: Checkpoint, data_dir: Path | None, dataset: str | None = None) -> Task:
    """The task that a checkpoint was trained on, with its data at hand.

    Args:
        checkpoint: the checkpoint.
        data_dir: where the dataset's files lie.
        dataset: another dataset of the same task; None takes that of the checkpoint.

    Raises:
        ConfigError: its examples cannot fit into memory.
        DataError: the data cannot be had.
    """
    options = dict(checkpoint.spec.task) | ({"dataset": dataset} if dataset else {})
    task = data.load(tasks.parse(options, str(checkpoint.path)), data_dir)
    check_memory(task.data_bytes, limits.memory_bytes(), "this machine")
    return task


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
    name: str, checkpoint: Checkpoint, device: str, memory: str, dtype: str | None = None
) -> Compiled:
    """A checkpoint's model on a backend.

    Args:
        name: the backend's name.
        checkpoint: the checkpoint.
        device: see `Backend.compile`.
        memory: a form of the fast memory.
        dtype: the number type; None takes that of the checkpoint. NumPy computes in float64.
    """
    train, model = checkpoint.spec.train, checkpoint.spec.model
    backend = backends.load(name, train.precision if dtype is None else "highest")
    check_form(model, memory)
    kind = "auto" if backend.name == "numpy" else dtype or train.dtype
    return backend.compile(model, checkpoint.params, device=device, dtype=kind, memory=memory)


def pt_reader(source: Path) -> Callable[[Path], Any] | None:
    """What reads a `.pt` file, for a source that is one; it needs the torch backend."""
    if source.suffix.lower() not in PT_SUFFIXES:
        return None
    backends.load("torch")
    from fwt.backends.torch.foreign import read_state_dict

    return read_state_dict
