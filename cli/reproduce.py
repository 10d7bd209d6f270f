"""`fwt reproduce`: the runs behind the published tables, and the page about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.cli.train import flag
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.reproduce.cells import Cell
    from fwt.reproduce.run import Reproduction, Run
    from fwt.reproduce.tally import Tally


def reproduce(
    task: options.TaskName,
    quick: Annotated[
        bool, typer.Option("--quick", help="R = 50, one seed, few epochs: minutes on two cores.")
    ] = False,
    group: Annotated[
        list[str] | None,
        flag("--group", "table, control or harder; may be repeated; default: table.", "What"),
    ] = None,
    model: Annotated[
        list[str] | None,
        flag(
            "--model",
            "Of these models alone; may be repeated.",
            "What",
            "-m",
            autocompletion=complete.of(complete.models),
        ),
    ] = None,
    size: Annotated[
        list[int] | None, flag("--size", "Of these R alone; may be repeated.", "What", "-R")
    ] = None,
    seeds: Annotated[
        str | None, flag("--seeds", "Such as 0-2 or 0,3; default: those of each cell.", "What")
    ] = None,
    backend: Annotated[
        str | None,
        flag(
            "--backend",
            "torch or mlx; default: torch, and some cells on mlx.",
            "What",
            "-b",
            autocompletion=complete.of(complete.named_backends),
        ),
    ] = None,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    out: Annotated[
        Path | None,
        flag(
            "--out",
            "Where results, RESULTS.md and docs/figures are; default: the checkout, "
            "outside of one the folder reproduced.",
            "Where",
            "-o",
            parser=options.path,
        ),
    ] = None,
    runs_dir: options.RunsDir = Path("runs"),
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    retries: options.Retries = 3,
    reconnect: options.Reconnect = 60.0,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Write the page and figures of what is stored.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run the cells of a published table that are not stored yet, and write RESULTS.md.

    What is stored is kept after every run; a command that was stopped goes on when given again.
    To run on this machine what is stored already, name another place with --out.
    Example: fwt reproduce retrieval --quick
    """
    from fwt.execute.executor import Cluster
    from fwt.reproduce import run, summary, tally

    planned = run.Reproduction(
        run.Wanted(task, quick, group, model, size, seeds, backend),
        run.Where(device, data_dir, out, runs_dir),
        Cluster(scheduler, workers, run.THREADS, retries, reconnect),
    )
    runs = planned.runs()
    lines = _plan_lines(planned, runs)
    if dry_run:
        print(json.dumps({"runs": _plan_data(runs)}) if as_json else "\n".join(lines))
        return
    if not quiet:
        print("\n".join(lines), file=sys.stderr, flush=True)
    failed = [] if page_only else run.run_missing(planned, runs, quiet)
    written = [] if quick else run.write_all(planned)
    cells = tally.tallies(planned.cells, summary.load(planned.store))
    if as_json:
        paths = [str(path) for path in written]
        print(json.dumps({"cells": [_cell_data(each) for each in cells], "written": paths}))
    else:
        _print_cells(planned, cells, written)
    run.check_failures(failed, len(runs))


QUICK_NOTES = {
    "retrieval": "few epochs, one seed",
    "mnist-glimpse": "one seed, on the 4,000 training images that ship with the code, while the "
    "published numbers are of all of MNIST",
}


def _plan_lines(found: Reproduction, runs: Sequence[Run]) -> list[str]:
    """What will run, for people."""
    lines = [f"cells     {found.wanted.task}: {len(found.cells)}, {len(runs)} runs"]
    width = max(len(run.cell.name) for run in runs)
    for cell in found.cells:
        own = [run for run in runs if run.cell == cell]
        if own:
            states = ", ".join(f"s{run.seed} {run.state}" for run in own)
            lines.append(f"  {cell.name:{width}}  {cell.backend}  {cell.digest or '-'}  {states}")
    left = sum(run.state == "to run" for run in runs)
    where = found.cluster.scheduler or f"{found.workers} at a time"
    lines.append(f"runs      {left} to run, {where}; stored in {found.store}")
    if not (left or found.wanted.quick) and any(run.state == "stored" for run in runs):
        lines.append("          to run here what is stored, name another place: --out DIR")
    return lines


def _plan_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What will run, as JSON data."""
    return [
        {
            "group": run.cell.group,
            "label": run.cell.label,
            "model": run.cell.model,
            "size": run.cell.size,
            "pairs": run.cell.pairs,
            "backend": run.cell.backend,
            "seed": run.seed,
            "digest": run.cell.digest,
            "state": run.state,
            "run": None if run.job is None else str(run.job.folder),
        }
        for run in runs
    ]


def _published(cell: Cell) -> dict[str, float | None]:
    """Source -> the published error of a cell; {} of a group that has none."""
    from fwt.reproduce.cells import PUBLISHED

    known = PUBLISHED[cell.task] if cell.group in ("table", "quick") else {}
    return {key: table.get(cell.model, {}).get(cell.size) for key, table in known.items()}


def _cell_data(found: Tally) -> dict[str, Any]:
    """A cell and its runs as JSON data."""
    cell = found.cell
    return {
        "group": cell.group,
        "label": cell.label,
        "model": cell.model,
        "size": cell.size,
        "pairs": cell.pairs,
        "backend": cell.backend,
        "digest": cell.digest,
        "published": _published(cell),
        "mean": found.mean,
        "sd": found.sd,
        "n": len(found.errors),
        "seeds": {record.seed: record.test_error_pct for record in found.records},
    }


def _print_cells(found: Reproduction, tallied: Sequence[Tally], written: Sequence[Path]) -> None:
    """The cells on stdout, and the order of the models."""
    from fwt.reproduce.tally import orders, percent

    width = max(len(tally.cell.name) for tally in tallied)
    print(f"{'test error, %':{width}}  backend  published  ours")
    for each in tallied:
        cell = each.cell
        known = _published(cell).get("P")
        shown = "-" if known is None else f"{known:.2f}"
        runs = ", ".join(
            f"s{record.seed} {percent(record.test_error_pct)}" for record in each.records
        )
        beside = f"  {runs}" if runs else ""
        print(f"{cell.name:{width}}  {cell.backend:7}  {shown:>9}  {each.result}{beside}")
    ours = [tally for tally in tallied if tally.cell.group in ("table", "quick")]
    for size, sentence in orders(found.wanted.task, ours):
        print(f"R = {size}. {sentence.replace('**', '')}")
    if found.wanted.quick:
        print(f"{QUICK_NOTES[found.wanted.task]}; for the whole table: "
              f"fwt reproduce {found.wanted.task}")  # fmt: skip
    for path in written:
        print(f"wrote     {show(path)}")
