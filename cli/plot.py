"""`fwt plot`: learning curves of runs and sweeps, together in one picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options

if TYPE_CHECKING:
    from figures.curves import Run


def plot(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs, or folders with runs below them, such as a sweep's.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture: .png or .svg.")] = Path(
        "curves.png"
    ),
    x: Annotated[str, typer.Option("--x", help="updates, examples or seconds.")] = "updates",
    y: Annotated[str, typer.Option("--y", help="error, loss or grad-norm.")] = "error",
    split: Annotated[
        str | None, typer.Option(help="train or val; default: val, train for grad-norm.")
    ] = None,
    logarithmic: Annotated[bool, typer.Option("--log", help="A logarithmic y axis.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Draw error, loss or gradient norm; runs that differ in the seed alone are one line.

    Its band is the range over the seeds.
    Example: fwt plot runs/retrieval --y error --log -o curves.png
    """
    from cli.drawing import check_drawing

    check_drawing([out])
    from figures import canvas, curves
    from fwcore.errors import ConfigError

    split = split or ("train" if y == "grad-norm" else "val")
    _check("--x", x, curves.X)
    _check("--y", y, curves.Y)
    _check("--split", split, ("train", "val"))
    found = curves.curves(_opened(runs), x, y, split)
    if not found:
        raise ConfigError(f"plot: no run has a line of {y} on the split {split}")
    canvas.save(curves.draw(found, x, y, split, logarithmic), out)
    if as_json:
        told: dict[str, Any] = {"figure": str(out), "x": x, "y": y, "split": split}
        print(json.dumps({**told, "curves": [asdict(curve) for curve in found]}))
        return
    for curve in found:
        seeds = ", ".join(map(str, curve.seeds))
        print(f"{curve.label}  seeds {seeds}  last {curve.middle[-1]:.4g}")
    print(f"figure  {out}")


def _check(flag: str, value: str, known: Any) -> None:
    """Refuse an unknown name. Raises ConfigError with the nearest one."""
    from fwcore.errors import ConfigError, nearest

    if value not in known:
        raise ConfigError(f"{flag}: unknown name {value!r} ({nearest(value, known)})")


def _opened(paths: list[Path]) -> list[Run]:
    """The runs named, and all below the folders named.

    Raises:
        FileError: there is none below a path.
    """
    from fwcore.errors import FileError

    found = {}
    for path in paths:
        folders = [path] if _is_run(path) else sorted(filter(_is_run, path.rglob("*")))
        if not folders:
            raise FileError(
                f"plot: {path}: neither a run with metrics nor a folder with such runs below it; "
                "expected spec.json and metrics.jsonl, which the first --log-every updates write"
            )
        found.update({one.resolve(): run_at(one) for one in folders})
    return list(found.values())


def run_at(path: Path) -> Run:
    """A run with its metrics.

    Raises:
        FileError: a file of it is damaged.
    """
    from cli.resolve import name_of
    from figures.curves import Run, metrics
    from fwcore.runs import RunFolder

    folder = RunFolder.open(path)
    spec = folder.read_spec()
    sessions = folder.sessions() or [{}]
    name = name_of(spec.model.core.json_data())
    return Run(path, name, str(sessions[-1].get("backend", "")), spec, metrics(folder))


def _is_run(path: Path) -> bool:
    return (path / "spec.json").is_file() and (path / "metrics.jsonl").is_file()
