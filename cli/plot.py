"""`fwt plot`: learning curves of runs and sweeps, together in one picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.plots.curves import Run


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=options.path, help="Runs, or folders with runs below them, such as a sweep's."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=options.path, help="The picture: .png or .svg.")
    ] = Path("curves.png"),
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

    It is the mean of the seeds that reach an update, its band their range.
    Example: fwt plot runs/retrieval --y error --log -o curves.png
    """
    from fwt.cli.drawing import check_drawing

    check_drawing([out])
    from fwt.find import find
    from fwt.fwcore.errors import ConfigError
    from fwt.plots import canvas, curves
    from fwt.plots.means import seeds_of

    split = split or ("train" if y == "grad-norm" else "val")
    _check("--x", x, curves.X)
    _check("--y", y, curves.Y)
    _check("--split", split, ("train", "val"))
    opened = [run_at(path) for path in find(runs, "plot").all_runs()]
    found, left = curves.curves(opened, x, y, split), curves.without(opened, y, split)
    if not found:
        raise ConfigError(
            f"plot: no run of {len(opened)} has a line of {y} on the split {split} yet; "
            "--log-every and --eval-every of a run say when it writes one"
        )
    canvas.save(curves.draw(found, x, y, split, logarithmic), out)
    if as_json:
        told: dict[str, Any] = {"figure": str(out), "x": x, "y": y, "split": split}
        told["left_out"] = [str(run.path) for run in left]
        print(json.dumps({**told, "curves": [asdict(curve) for curve in found]}))
        return
    for curve in found:
        seeds = ", ".join(map(str, curve.seeds))
        fewer = f"  mean of {seeds_of(curve.steps, curve.n)}" if len(set(curve.n)) > 1 else ""
        print(f"{curve.label}  seeds {seeds}  last {curve.ends}{fewer}")
    for run in left:
        print(f"left out  {show(run.path)}: no line of {y} on the split {split} yet")
    print(f"figure  {show(out)}")


def _check(flag: str, value: str, known: Any) -> None:
    """Refuse an unknown name. Raises ConfigError with the nearest one."""
    from fwt.fwcore.errors import ConfigError, nearest

    if value not in known:
        raise ConfigError(f"{flag}: unknown name {value!r} ({nearest(value, known)})")


def run_at(path: Path) -> Run:
    """A run with its metrics.

    Raises:
        FileError: a file of it is damaged.
    """
    from fwt.fwcore.storage.runs import RunFolder
    from fwt.plots.curves import Run, metrics
    from fwt.settings import name_of

    folder = RunFolder.open(path)
    spec = folder.read_spec()
    sessions = folder.sessions() or [{}]
    name = name_of(spec.model.core.json_data())
    return Run(path, name, str(sessions[-1].get("backend", "")), spec, metrics(folder))
