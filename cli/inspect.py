"""`fwt inspect`: what a network does with one example, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options

if TYPE_CHECKING:
    from fwt.fwcore.analysis.trace import Trace
    from fwt.fwcore.ops import NumpyArray
    from fwt.tasks.base import Reader

SHOWN = 3  # steps named of an attention


def inspect(
    checkpoint: options.Checkpoint,
    example: Annotated[
        str, typer.Option(help="A string such as c9k8j3f1??c, or a 28x28 image (.npy, .png).")
    ],
    figure: Annotated[
        Path | None,
        typer.Option(parser=options.path, help="Draw the attention: .png or .svg."),
    ] = None,
    spectrum: Annotated[
        Path | None,
        typer.Option(parser=options.path, help="Draw the eigenvalues of A: .png or .svg."),
    ] = None,
    backend: options.ReadBackend = "numpy",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Attention to the past, norms, and rank and spectrum of A, for each time step and inner step.

    Example: fwt inspect checkpoints/retrieval-fast-weights-r20 --example "c9k8j3f1??c"
    """
    import fwt
    from fwt.cli.drawing import check_drawing
    from fwt.fwcore.analysis.trace import facts_of

    check_drawing([figure, spectrum])
    network = fwt.load(checkpoint, backend, device=device)
    reader = network.reader
    inputs = network.inputs(example)[0]
    traced = network.trace(inputs)
    labels = reader.labels(inputs)
    facts = network.describe(1, len(labels))
    result = {
        "checkpoint": str(network.checkpoint.path),
        **{key: facts[key] for key in ("backend", "device", "dtype")},
        "example": example,
        **_answer(traced, reader),
        "steps": facts_of(traced, labels),
    }
    if figure is not None:
        _draw(traced, reader, inputs, labels, f"{_short(example)} -> {result['answer']}", figure)
    if spectrum is not None:
        from fwt.plots import attention, canvas

        values = [step["eigenvalues"] for step in result["steps"]]
        canvas.save(attention.spectra(traced, values), spectrum)
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)


def _answer(traced: Trace, reader: Reader) -> dict[str, Any]:
    """The answer and the probability of each class."""
    from fwt.fwcore.analysis.compare import softmax

    chances = softmax(traced.scores)[0]
    named = {reader.classes[n]: float(chance) for n, chance in enumerate(chances)}
    return {"answer": max(named, key=lambda name: named[name]), "probabilities": named}


def _short(example: str) -> str:
    """An example as a title has it: of a path, the file's name."""
    return Path(example).name


def _draw(
    traced: Trace,
    reader: Reader,
    inputs: NumpyArray,
    labels: tuple[str, ...],
    title: str,
    path: Path,
) -> None:
    """The attention as a picture. Raises ConfigError for a network without fast memory."""
    from fwt.fwcore.errors import ConfigError
    from fwt.plots import attention, canvas

    if not any(step.reads for step in traced.steps):
        raise ConfigError("--figure: this network reads no fast memory, so there is no attention")
    pictures = reader.pictures(inputs)
    if pictures is None:
        canvas.save(attention.heat_map(traced, labels, title), path)
    else:
        canvas.save(attention.glimpses(traced, *pictures, labels, title), path)


def _show(result: dict[str, Any]) -> None:
    """The steps as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("t", "input", "|h|", "|Wh+Cx|", "s", "|A h_s|", "looks at", "rank of A"):
        table.add_column(name, justify="left" if name in ("input", "looks at") else "right")
    inputs = [step["input"] for step in result["steps"]]
    for step in result["steps"]:
        table.add_row(
            str(step["step"]),
            step["input"],
            _fixed(step["norm_h"]),
            _fixed(step["norm_slow"]),
            "\n".join(str(number) for number, _ in enumerate(step["reads"], 1)),
            "\n".join(_fixed(read["norm"]) for read in step["reads"]),
            "\n".join(_looks(read, inputs) for read in step["reads"]),
            _fixed(step["effective_rank"]),
        )
    out = Console(width=100, highlight=False)
    out.print(table)
    best = result["probabilities"][result["answer"]]
    out.print(f"{result['example']} -> {result['answer']}  {best:.2%}", markup=False)


def _fixed(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _looks(read: dict[str, Any], inputs: list[str]) -> str:
    """The steps that a read takes most from."""
    best = sorted(read["attention"].items(), key=lambda pair: -pair[1])[:SHOWN]
    return "  ".join(f"{t}:{inputs[int(t)]} {weight:.2f}" for t, weight in best)
