"""What `fwt reproduce` prints: the plan before, the cells after, for people or as JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwt.cli.reproducing import Reproduction, Run
from fwt.fwcore.paths import show
from fwt.reproduce import page
from fwt.reproduce.cells import PUBLISHED, Cell
from fwt.reproduce.tally import Tally

QUICK_NOTES = {
    "retrieval": "few epochs, one seed",
    "mnist-glimpse": "one seed, on the 4,000 training images that ship with the code, while the "
    "published numbers are of all of MNIST",
}


def plan_lines(found: Reproduction, runs: Sequence[Run]) -> list[str]:
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


def plan_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
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
    known = PUBLISHED[cell.task] if cell.group in ("table", "quick") else {}
    return {key: table.get(cell.model, {}).get(cell.size) for key, table in known.items()}


def cell_data(found: Tally) -> dict[str, Any]:
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


def print_cells(found: Reproduction, tallied: Sequence[Tally], written: Sequence[Path]) -> None:
    """The cells on stdout, and the order of the models."""
    width = max(len(tally.cell.name) for tally in tallied)
    print(f"{'test error, %':{width}}  backend  published  ours")
    for each in tallied:
        cell = each.cell
        known = _published(cell).get("P")
        shown = "-" if known is None else f"{known:.2f}"
        runs = ", ".join(f"s{record.seed} {page.percent(record)}" for record in each.records)
        beside = f"  {runs}" if runs else ""
        print(f"{cell.name:{width}}  {cell.backend:7}  {shown:>9}  {page.result(each)}{beside}")
    ours = [tally for tally in tallied if tally.cell.group in ("table", "quick")]
    for line in page.order_lines(found.wanted.task, ours):
        print(line.removeprefix("- ").replace("**", ""))
    if found.wanted.quick:
        print(f"{QUICK_NOTES[found.wanted.task]}; for the whole table: "
              f"fwt reproduce {found.wanted.task}")  # fmt: skip
    for path in written:
        print(f"wrote     {show(path)}")
