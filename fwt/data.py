"""A task with its data, as the verbs load it: `--data-dir` is for a task that reads files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fwt import tasks
from fwt.fwcore import paths
from fwt.tasks.base import Task, TaskSpec

Load = Callable[[TaskSpec, Path | None], Task]

DATA_DIR = "FWT_DATA_DIR"  # environment variable: the folder of whatever dataset is read


def folder_for(
    spec: TaskSpec, data_dir: Path | None, others: Sequence[TaskSpec] = ()
) -> Path | None:
    """The folder of a task's files.

    Args:
        spec: the task's options.
        data_dir: `--data-dir`.
        others: the other tasks of the command.

    Returns:
        None for a task that reads no files if another one does, or if `DATA_DIR` named the folder;
        else `data_dir`, which such a task refuses.
    """
    if data_dir is None or spec.reads_files:
        return data_dir
    named = os.environ.get(DATA_DIR)
    meant = not named or data_dir != paths.expand(named)
    return data_dir if meant and not any(other.reads_files for other in others) else None


def load(spec: TaskSpec, data_dir: Path | None, others: Sequence[TaskSpec] = ()) -> Task:
    """A task with its data at hand; the arguments are those of `folder_for`.

    Raises:
        ConfigError: a folder was named, and nothing of the command reads files.
        DataError: the data is missing, damaged or cannot be had.
    """
    return tasks.load(spec, folder_for(spec, data_dir, others))
