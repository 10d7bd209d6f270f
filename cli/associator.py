"""`fwt associator`: recall of stored pairs, measured against theory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options

if TYPE_CHECKING:
    from fwt.fwcore.analysis.associator import Point

MEMORIES = {
    "linear": "squared error / squared value",
    "hopfield": "share of flipped bits",
}
TOLERATED = {"linear": 0.5, "hopfield": 0.01}  # errors whose capacity is told


def associator(
    memory: Annotated[str, typer.Option(help="linear, or hopfield.")] = "linear",
    keys: Annotated[str, typer.Option(help="random or orthonormal (linear only).")] = "random",
    size: Annotated[int, typer.Option("--size", "-R", min=2, help="R, numbers of a key.")] = 64,
    pairs: Annotated[
        str, typer.Option(help="n, pairs stored: numbers and ranges.")
    ] = "1,2,4,8,16,32,48,64",
    decay: Annotated[float, typer.Option(help="lambda, kept of A a pair (linear only).")] = 1.0,
    age: Annotated[int, typer.Option(min=0, help="Pairs stored after the recalled one.")] = 0,
    trials: Annotated[int, typer.Option(min=2, help="Random memories of each number.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of keys and values.")] = 0,
    figure: Annotated[
        Path | None,
        typer.Option(parser=options.path, help="Draw error against pairs: .png or .svg."),
    ] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Store n random pairs in A = sum value key^T, recall one, and compare with the formula.

    Example: fwt associator --size 64 --pairs 1,8,16,32,64 --decay 0.95
    """
    from fwt.cli.drawing import check_drawing

    check_drawing([figure])
    counts = _checked(memory, keys, pairs, decay, age)
    points = [_point(memory, keys, size, n, decay, age, trials, seed) for n in counts]
    from fwt.fwcore.analysis.associator import capacity

    within = TOLERATED[memory]
    plain = keys == "random" and decay == 1 and age == 0
    result: dict[str, Any] = {
        "memory": memory,
        "keys": keys,
        "size": size,
        "decay": decay,
        "age": age,
        "trials": trials,
        "seed": seed,
        "error": MEMORIES[memory],
        "points": [asdict(point) for point in points],
        "capacity": {"error": within, "pairs": capacity(size, within, memory)} if plain else None,
    }
    if figure is not None:
        from fwt.plots import canvas, recall

        title = f"{memory}, R = {size}" + (f", decay {decay:g}, age {age}" if decay < 1 else "")
        canvas.save(recall.recall_error(points, title, MEMORIES[memory]), figure)
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)


def _checked(memory: str, keys: str, pairs: str, decay: float, age: int) -> list[int]:
    """The numbers of pairs. Raises ConfigError for what does not go together."""
    from fwt.fwcore.errors import ConfigError, nearest
    from fwt.lists import whole_numbers

    if memory not in MEMORIES:
        raise ConfigError(f"--memory: unknown name {memory!r} ({nearest(memory, MEMORIES)})")
    if not 0 < decay <= 1:
        raise ConfigError(f"--decay: expected a number in (0, 1], got decay={decay}")
    if memory == "hopfield" and (keys, decay, age) != ("random", 1.0, 0):
        raise ConfigError("--memory hopfield: expected random keys, decay 1 and age 0 beside it")
    found = whole_numbers("--pairs", pairs)
    counts = sorted(set(found if isinstance(found, list) else [found]))
    if counts[0] <= age:
        raise ConfigError(f"--pairs: expected more than age={age}, got pairs={counts[0]}")
    return counts


def _point(
    memory: str, keys: str, size: int, pairs: int, decay: float, age: int, trials: int, seed: int
) -> Point:
    from fwt.fwcore.analysis import associator as theory

    if memory == "hopfield":
        samples = theory.measured_bit_error(size, pairs, trials, seed)
        return theory.point(pairs, theory.bit_error(size, pairs), samples)
    samples = theory.measured_crosstalk(keys, size, pairs, age, decay, trials, seed)
    expected = theory.crosstalk(size, pairs, age, decay) if keys == "random" else 0.0
    return theory.point(pairs, expected, samples)


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("pairs", "theory", "measured", "standard error"):
        table.add_column(name, justify="right")
    for point in result["points"]:
        numbers = (point["theory"], point["mean"], point["standard_error"])
        table.add_row(str(point["pairs"]), *(f"{number:.4f}" for number in numbers))
    out = Console(width=100, highlight=False)
    out.print(f"{result['memory']}, R = {result['size']}, {result['keys']}: {result['error']}")
    out.print(table)
    if result["capacity"] is not None:
        told = result["capacity"]
        out.print(f"capacity: {told['pairs']} pairs within an expected error of {told['error']:g}")
