"""`fwt reproduce`: the runs behind the published tables, and the page about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.cli.train import flag


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
    from fwt.cli import reproducing

    found = reproducing.Reproduction(
        reproducing.Wanted(task, quick, group, model, size, seeds, backend),
        reproducing.Where(device, data_dir, out, runs_dir),
        options.Cluster(scheduler, workers, reproducing.THREADS, retries, reconnect),
    )
    reproducing.reproduce(found, page_only, dry_run, as_json, quiet)
