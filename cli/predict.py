"""`fwt predict`: what a checkpoint answers to examples typed by hand, piped in or in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options

if TYPE_CHECKING:
    from fwt.backends.contract import Compiled
    from fwt.tasks.base import Array, Reader

BATCH = 1000  # examples computed at once


def predict(
    checkpoint: options.Checkpoint,
    examples: Annotated[
        list[str] | None,
        typer.Argument(help="Strings such as c9k8j3f1??c, or 28x28 images (.npy, .png)."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", parser=options.path, help="Examples, one a line; - is stdin."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers shown of each example.")] = 3,
    backend: options.ReadBackend = "numpy",
    device: options.Device = "auto",
    memory: options.Memory = "auto",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Answer examples, with probabilities; without any, read them from stdin or a prompt.

    Example: fwt predict checkpoints/retrieval-fast-weights-r20 "c9k8j3f1??c"
    """
    from fwt import tasks
    from fwt.fwcore.storage.runs import find_checkpoint
    from fwt.opening import on_backend

    found = find_checkpoint(checkpoint)
    reader = tasks.reader(tasks.parse(found.spec.task, str(checkpoint)))
    given = _given(examples, file)
    model = on_backend(backend, found, device, memory)
    if given is None:
        _converse(model, reader, top)
        return
    answers = _answers(model, reader, given, top)
    if as_json:
        facts = model.describe(len(given), 1)
        place = {key: facts[key] for key in ("backend", "device", "dtype")}
        print(json.dumps({"checkpoint": str(found.path), **place, "predictions": answers}))
        return
    for answer in answers:
        print(_line(answer))


def _given(examples: list[str] | None, file: Path | None) -> list[str] | None:
    """The examples of the arguments, else of the file or of stdin; None if they will be typed.

    Raises:
        ConfigError: arguments and a file are given, or there is no example.
        FileError: the file cannot be read.
    """
    from fwt.fwcore.errors import ConfigError, FileError
    from fwt.fwcore.storage import files

    if examples and file is not None:
        raise ConfigError("predict: expected examples as arguments or --file, got both")
    if examples:
        return list(examples)
    if file is None and sys.stdin.isatty():
        return None
    source = None if file in (None, Path("-")) else file
    try:
        text = sys.stdin.read() if source is None else files.text(source)
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"predict: {source or 'stdin'} cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"predict: expected an example a line, got none in {source or 'stdin'}")
    return lines


def _answers(model: Compiled, reader: Reader, given: list[str], top: int) -> list[dict[str, Any]]:
    """What the model answers to each example, the most probable answers first.

    Raises:
        ConfigError, DataError: an example cannot be read; nothing was computed.
    """
    import numpy as np

    from fwt.fwcore.analysis.compare import softmax

    inputs = [reader.parse(text) for text in given]
    found: dict[int, dict[str, Any]] = {}
    for numbers in _alike(inputs):
        chances = softmax(model.forward(np.stack([inputs[n] for n in numbers])))
        for number, row in zip(numbers, chances, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            found[number] = {
                "input": given[number].strip(),
                "answer": reader.classes[best[0]],
                "probability": float(row[best[0]]),
                "others": [
                    {"answer": reader.classes[n], "probability": float(row[n])} for n in best[1:]
                ],
            }
    return [found[number] for number in range(len(given))]


def _alike(inputs: list[Array]) -> Iterator[list[int]]:
    """Numbers of inputs of one shape, so that they can be computed together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, array in enumerate(inputs):
        groups.setdefault(array.shape, []).append(number)
    for numbers in groups.values():
        for first in range(0, len(numbers), BATCH):
            yield numbers[first : first + BATCH]


def _line(answer: dict[str, Any]) -> str:
    others = ", ".join(f"{one['answer']} {one['probability']:.2%}" for one in answer["others"])
    shown = f"{answer['input']} -> {answer['answer']}  {answer['probability']:.2%}"
    return f"{shown}  ({others})" if others else shown


def _converse(model: Compiled, reader: Reader, top: int) -> None:
    """Answer line by line until the input ends; a bad line is named, and the next one is read."""
    from fwt.cli.failure import one_line
    from fwt.fwcore.errors import FwtError

    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
            if not line:
                print(file=sys.stderr)
                return
            if line.strip():
                print(_line(_answers(model, reader, [line], top)[0]), flush=True)
        except (FwtError, UnicodeDecodeError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
