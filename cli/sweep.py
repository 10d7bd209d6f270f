"""`fwt sweep`: a grid or a search over settings, chosen on the validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fwt.cli import options
from fwt.cli.train import flag


def sweep(
    file: Annotated[
        Path, typer.Argument(parser=options.path, help="The sweep, TOML.", show_default=False)
    ],
    device: options.Device = "auto",
    memory: options.Memory = "auto",
    data_dir: options.DataDir = None,
    runs_dir: options.RunsDir = Path("runs"),
    storage: Annotated[
        str | None,
        flag("--storage", "URL of the search's database; default: SQLite in its folder.", "Where"),
    ] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each process.", rich_help_panel="Cluster")
    ] = 1,
    retries: options.Retries = 3,
    reconnect: options.Reconnect = 60.0,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train every setting of a grid or a search, and choose by validation error.

    A sweep that was stopped goes on with the same command; runs that are done are not run again.
    Example: fwt sweep fwt/sweep/examples/retrieval-lstm.toml
    """
    from fwt.cli import sweeping

    sweeping.check_installed()
    place = options.Cluster(scheduler, workers, threads, retries, reconnect)
    request = sweeping.Request(file, device, memory, data_dir, runs_dir, storage)
    sweeping.sweep(request, place, dry_run, as_json, quiet)
