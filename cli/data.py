"""`fwt data`: get a task's data, check it, and look at some examples."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fwt.cli import completion as complete
from fwt.cli import options


def data(
    task: options.TaskName,
    pairs: Annotated[int | None, typer.Option(help="K key-value pairs a string.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.of(complete.policies), help="Glimpse policy; see fwt list."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(autocompletion=complete.of(complete.datasets), help="Dataset; see fwt list."),
    ] = None,
    data_dir: options.DataDir = None,
    split: options.Split = "train",
    show: Annotated[int, typer.Option(min=0, help="How many examples to print.")] = 3,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Fetch and check the data of a task, and show examples.

    Example: fwt data mnist-glimpse --dataset mnist --show 1
    """
    from fwt import tasks
    from fwt.data import load
    from fwt.tasks.base import SPLITS

    given = {"pairs": pairs, "policy": policy, "dataset": dataset}
    chosen = {key: value for key, value in given.items() if value is not None}
    found = load(tasks.parse({"kind": task, **chosen}), data_dir)
    examples = found.split(split)
    facts: dict[str, Any] = {
        "task": task,
        "dataset": found.dataset,
        "spec": found.spec.json_data(),
        "examples": {name: len(found.split(name)) for name in SPLITS},
        "steps": found.shape.steps,
        "classes": found.shape.classes,
        "chance_error_pct": found.chance_error,
    }
    rows = range(min(show, len(examples)))
    shown = [found.render(examples.inputs[row], int(examples.targets[row])) for row in rows]
    if as_json:
        print(json.dumps({**facts, "split": split, "shown": shown}))
        return
    sizes = ", ".join(f"{count:,} {name}" for name, count in facts["examples"].items())
    print(
        f"{found.dataset}: {sizes}; T = {facts['steps']}, {facts['classes']} classes, "
        f"chance error {facts['chance_error_pct']:.0f}%"
    )
    for text in shown:
        print(text)
