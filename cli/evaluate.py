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
    from fwt.fwcore.training.loop import measure
    from fwt.opening import on_backend, opened

    found, subject = opened(checkpoint, data_dir, task, dataset)
    examples = subject.split(split)
    model = on_backend(backend, found, device, memory)
    result = measure(model, examples)
    facts = model.describe(1000, subject.shape.steps)
    if as_json:
        place = {key: facts[key] for key in ("backend", "device", "dtype", "memory")}
        named = {"checkpoint": str(found.path), "split": split, "dataset": subject.dataset}
        print(json.dumps({**named, **place, "step": found.progress.step, **result}))
        return
    print(f"checkpoint  {show(found.path)}")
    print(f"dataset     {subject.dataset}, {split}: {result['examples']} examples")
    print(f"backend     {facts['backend']}, {facts['device']}, {facts['dtype']}")
    print(f"error       {result['error_pct']:.2f}%   loss {result['loss']:.4f}")
