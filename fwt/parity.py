"""One checkpoint on several backends, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwt import backends
from fwt.fwcore.analysis.compare import Conditioning, compare
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.training.batches import Split
from fwt.opening import on_backend, task_of


def names_of(text: str) -> list[str]:
    """Backends from `numpy,torch`; `all` is every one that is installed."""
    if text == "all":
        return [name for name in backends.BACKENDS if backends.installed(name)]
    return [name.strip() for name in text.split(",") if name.strip()]


def compare_backends(
    checkpoint: Checkpoint, split: Split, names: Sequence[str], device: str, memory: str
) -> list[dict[str, Any]]:
    """The rows of `fwt.fwcore.analysis.compare.compare` for a checkpoint.

    The backends compute in float32 (float64 if the run did) even where the run used bfloat16 or
    TF32, and NumPy in float64: what differs then is the backends, not the number type.

    Raises:
        ConfigError: fewer than two backends.
    """
    if len(set(names)) < 2:
        given = ",".join(names)
        raise ConfigError(f"--backends: expected two or more, got {given!r}; e.g. numpy,torch,mlx")
    kind = number_type(checkpoint)
    models = {
        name: on_backend(name, checkpoint, "cpu" if name == "numpy" else device, memory, kind)
        for name in names
    }
    autodiff = [name for name in names if name != "numpy"]
    conditioning = Conditioning(
        checkpoint.params,
        kind,
        on_backend("numpy", checkpoint, "cpu", memory),
        on_backend(autodiff[0], checkpoint, "cpu", memory, "float64"),
    )
    return compare(models, split, frozenset({"numpy"}), conditioning)


def verify_checkpoint(
    checkpoint: Checkpoint,
    names: Sequence[str],
    split: str = "test",
    device: str = "auto",
    memory: str = "auto",
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """What `fwt verify --json` prints of a checkpoint on a split of its task."""
    task = task_of(checkpoint, data_dir)
    return {
        "checkpoint": str(checkpoint.path),
        "split": split,
        "dtype": number_type(checkpoint),
        "dataset": task.dataset,
        "pairs": compare_backends(checkpoint, task.split(split), names, device, memory),
    }


def number_type(checkpoint: Checkpoint) -> str:
    """The type that a checkpoint's weights are kept in, in which backends can be compared."""
    return "float64" if checkpoint.spec.train.dtype == "float64" else "float32"
