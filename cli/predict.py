"""`fwt predict`: what a checkpoint answers to examples typed by hand, piped in or in files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options

if TYPE_CHECKING:
    from fwt.model import Model


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
    import fwt

    network = fwt.load(checkpoint, backend, device=device, memory=memory)
    given = _given(examples, file)
    if given is None:
        _converse(network, top)
        return
    answers = network.predict(given, top)
    if as_json:
        facts = network.describe(len(given), 1)
        place = {key: facts[key] for key in ("backend", "device", "dtype")}
        path = str(network.checkpoint.path)
        print(json.dumps({"checkpoint": path, **place, "predictions": answers}))
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


def _line(answer: dict[str, Any]) -> str:
    others = ", ".join(f"{one['answer']} {one['probability']:.2%}" for one in answer["others"])
    shown = f"{answer['input']} -> {answer['answer']}  {answer['probability']:.2%}"
    return f"{shown}  ({others})" if others else shown


def _converse(network: Model, top: int) -> None:
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
                print(_line(network.predict(line, top)[0]), flush=True)
        except (FwtError, UnicodeDecodeError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
