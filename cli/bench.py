"""`fwt bench`: what a step costs, beside the framework's own LSTM and GRU and a naive one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.bench.shapes import Shape
    from fwt.bench.subjects import Framework
    from fwt.bench.suite import Options


def bench(
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    shape: Annotated[
        list[str] | None, typer.Option(help="B,T,R,S; may be repeated; default: the grid.")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, matrix, attention, chunked, lstm, gru or naive; may be repeated; "
            "default: all."
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="train, forward, stream or memory; may be repeated; default: all."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=5, help="Rounds of a subject, at most.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, help="Time budget of a subject at a shape; at least 5 rounds."),
    ] = 10.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of PyTorch; default: its own choice.")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid/--no-grid", help="Without it only the rest is run.")
    ] = True,
    growth: Annotated[
        bool, typer.Option("--growth", help="Also time and memory from T = 250 to 4000.")
    ] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="Also the training loop against the bare step.")
    ] = False,
    population: Annotated[
        bool, typer.Option("--population", help="Also 16 models at once against one by one.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(parser=options.path, help="Write the result as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(parser=options.path, help="Folder for pictures of cost against T and R."),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure training step, forward pass, streaming latency and peak memory.

    Every subject is first held against the equations in float64; one that computes something else
    gets no number, and the exit code is 1.
    Example: fwt bench --backend torch --shape 128,11,50,1 --subject auto --subject lstm
    """
    from fwt import backends
    from fwt.bench.subjects import framework
    from fwt.bench.suite import FAILED
    from fwt.fwcore.errors import BackendError, CheckFailed

    chosen, shapes = _chosen(subject, measure, rounds, seconds), _shapes(shape, grid)
    if plot is not None:
        _check_plots()
    loaded = backends.load(backend)
    if loaded.name not in backends.TRAINING_ORDER:
        able = " or ".join(backends.TRAINING_ORDER)
        raise BackendError(f"backend {loaded.name}: it cannot train; use --backend {able}")
    side = framework(loaded, device, threads)
    extras = [
        name
        for name, wanted in (("growth", growth), ("loop", loop), ("population", population))
        if wanted
    ]
    result = _run(side, shapes, chosen, extras, out, quiet)
    if plot is not None:
        _plot(result, plot)
    if as_json:
        print(json.dumps(result))
    else:
        from fwt.bench.show import show

        show(result)
    rows = [*result["rows"], *(result["growth"] or {"rows": []})["rows"]]
    failed = [
        f"{row['subject']} {row['measure']} at {row['batch']},{row['steps']},{row['size']},"
        f"{row['inner']}: {row['reason']}"
        for row in rows
        if row["status"] == FAILED
    ]
    if failed:
        raise CheckFailed(f"bench: not equal to the equations: {'; '.join(failed)}")


def _chosen(
    subject: list[str] | None, measure: list[str] | None, rounds: int, seconds: float
) -> Options:
    """What is measured. Raises ConfigError for a name that is not known."""
    from fwt.bench.subjects import SUBJECTS, check_name
    from fwt.bench.suite import MEASURES, Options
    from fwt.fwcore.errors import ConfigError, nearest

    for name in measure or ():
        if name not in MEASURES:
            raise ConfigError(f"--measure: unknown name {name!r} ({nearest(name, MEASURES)})")
    subjects = tuple(dict.fromkeys(check_name(name) for name in subject or SUBJECTS))
    measures = tuple(name for name in MEASURES if name in (measure or MEASURES))
    return Options(subjects, measures, rounds, seconds)


def _shapes(given: list[str] | None, grid: bool) -> list[Shape]:
    """The shapes to run. Raises ConfigError for one that is none."""
    from fwt.bench.shapes import GRID, parse
    from fwt.fwcore.errors import ConfigError

    if not grid and given:
        raise ConfigError("--no-grid: expected no --shape beside it; leave one of the two out")
    if not grid:
        return []
    return list(dict.fromkeys(map(parse, given))) if given else list(GRID)


def _check_plots() -> None:
    """Refuse `--plot` before anything is measured. Raises BackendError without Matplotlib."""
    from importlib.util import find_spec

    from fwt.fwcore.errors import BackendError

    if find_spec("matplotlib") is None:
        raise BackendError("--plot: Matplotlib is not installed; pip install 'fwt[plots]'")


def _run(
    side: Framework,
    shapes: list[Shape],
    chosen: Options,
    extras: list[str],
    out: Path | None,
    quiet: bool,
) -> dict[str, Any]:
    """Measure all of it; the file is written after every shape, so that little is ever lost."""
    from fwt.bench import growth, loop, population, suite

    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    ceilings = side.ceilings()
    result = _header(side, shapes, chosen, ceilings)
    _write(out, result)
    for shape in shapes:
        result["rows"] += suite.rows_of(side, shape, chosen, ceilings, tell)
        _write(out, result)
    if "stream" in chosen.measures:
        for shape in {(one.size, one.inner): one for one in reversed(shapes)}.values():
            result["rows"] += suite.stream_rows(side, shape, chosen, ceilings, tell)
            _write(out, result)
    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "growth": lambda: growth.growth(side, chosen, ceilings, tell, growth.LENGTHS),
        "loop": lambda: loop.loop(side, loop.Extent()),
        "population": lambda: population.population(side, population.Extent()),
    }
    for name in extras:
        tell(f"{side.backend.name}: {name}")
        result[name] = measured[name]()
        _write(out, result)
    return result


def _header(side: Framework, shapes: list[Shape], chosen: Options, ceilings: Any) -> dict[str, Any]:
    """Where and how it was measured."""
    from fwt import environment
    from fwt.bench import machine
    from fwt.bench.check import TOLERANCES

    name = side.backend.name
    versions = side.backend.versions()
    place = environment.facts(versions) | side.facts()
    place |= {"backend": name, "version": versions[name], "device": side.device}
    place |= {"processor": machine.cpu_name(), "dtype": "float32", "precision": "highest"}
    return {
        "environment": place,
        "settings": {
            "shapes": [list(shape) for shape in shapes],
            "subjects": list(chosen.subjects),
            "measures": list(chosen.measures),
            "rounds": chosen.rounds,
            "seconds": chosen.seconds,
            "longest_step_s": chosen.longest,
        },
        "tolerances": dict(TOLERANCES),
        "ceilings": {
            "operations_per_s": ceilings.operations,
            "bytes_per_s": ceilings.bandwidth,
        },
        "rows": [],
        "growth": None,
        "loop": None,
        "population": None,
    }


def _write(out: Path | None, result: dict[str, Any]) -> None:
    """The result so far as a file. Raises FileError."""
    from fwt.fwcore.storage.durable import make_folder, write_text

    if out is None:
        return
    make_folder(out.parent)
    write_text(out, json.dumps(result, indent=1) + "\n")


def _plot(result: dict[str, Any], folder: Path) -> None:
    """Pictures, and a line on stderr where the shapes give none."""
    from fwt.bench.plots import plot

    written = plot(result, folder)
    text = ", ".join(map(show, written)) or "none: no two shapes differ only in T or only in R"
    print(f"pictures: {text}", file=sys.stderr)
