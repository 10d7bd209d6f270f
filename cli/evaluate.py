"""`fwt eval`: the error of a checkpoint on a split, on any backend."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.fwcore.paths import show


def evaluate(
    checkpoint: options.Checkpoint,
    backend: options.Backend = "auto",
    split: options.Split = "test",
    task: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.of(complete.tasks), help="Refuse a checkpoint of another task."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.of(complete.datasets),
            help="Another dataset of the same task than trained on.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    memory: options.Memory = "auto",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Evaluate a checkpoint.

    Example: fwt eval runs/demo --backend torch --split test --json
    """
    import fwt
    from fwt.fwcore.errors import ConfigError

    model = fwt.load(checkpoint, backend, device=device, memory=memory)
    path, kind = model.checkpoint.path, model.spec.task.get("kind")
    if task is not None and kind != task:
        raise ConfigError(f"{path}: expected a checkpoint of task {task!r}, got task={kind!r}")
    result = model.evaluate(split, dataset=dataset, data_dir=data_dir)
    if as_json:
        found = {key: result.pop(key) for key in ("loss", "error_pct", "examples")}
        step = model.checkpoint.progress.step
        print(json.dumps({"checkpoint": str(path), **result, "step": step, **found}))
        return
    print(f"checkpoint  {show(path)}")
    print(f"dataset     {result['dataset']}, {split}: {result['examples']} examples")
    print(f"backend     {result['backend']}, {result['device']}, {result['dtype']}")
    print(f"error       {result['error_pct']:.2f}%   loss {result['loss']:.4f}")
