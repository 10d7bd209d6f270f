"""Options that several verbs share, declared once: spelling, environment variable, help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fwt import shipped
from fwt.cli import completion as complete
from fwt.cli import failure
from fwt.fwcore import paths
from fwt.fwcore.errors import ConfigError


def path(given: Any) -> Path:
    """The parser of every option and argument that is a path; see `fwt.fwcore.paths.expand`.

    Raises:
        typer.BadParameter: it is empty; typer adds the option's name.
        FileError: it cannot be a path here.
    """
    try:
        return paths.expand(given)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def checkpoint(given: Any) -> Path:
    """The parser of a checkpoint: a path, or the name of a network that ships with fwt."""
    return shipped.find(path(given))


BACKENDS = "auto, torch, mlx or numpy"

Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        "-b",
        envvar="FWT_BACKEND",
        autocompletion=complete.of(complete.backends),
        help=f"Framework: {BACKENDS}.",
    ),
]
ReadBackend = Annotated[
    str,
    typer.Option(
        "--backend",
        "-b",
        envvar="FWT_BACKEND",
        autocompletion=complete.of(complete.backends),
        help=f"Framework: {BACKENDS}; numpy starts fastest.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        envvar="FWT_DEVICE",
        autocompletion=complete.of(complete.devices),
        help="auto, cpu, gpu, cuda, cuda:N or mps; see fwt doctor.",
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        envvar="FWT_MEMORY",
        autocompletion=complete.of(complete.memories),
        help="Fast memory: auto, fused, matrix, attention or chunked.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="FWT_DATA_DIR",
        parser=path,
        help="Folder of the dataset's files; without it: the cache, then a download.",
    ),
]
Split = Annotated[
    str,
    typer.Option(autocompletion=complete.of(complete.splits), help="train, val or test."),
]
Backends = Annotated[
    str,
    typer.Option(
        "--backends",
        autocompletion=complete.several(complete.named_backends),
        help="Comma-separated; the default is all installed.",
    ),
]
TaskName = Annotated[
    str,
    typer.Argument(
        autocompletion=complete.of(complete.tasks),
        help="retrieval or mnist-glimpse.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="FWT_DEBUG",
        callback=failure.set_debug,
        help="Show the traceback of an error.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Checkpoint = Annotated[
    Path,
    typer.Argument(parser=checkpoint, help="A run, checkpoint, model file or shipped name."),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", parser=path, help="Folder of all runs.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a Dask scheduler; default: processes here.", rich_help_panel="Cluster"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes here; default: one a core, on a GPU one.",
        rich_help_panel="Cluster",
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0, help="Times that a run goes on after a lost worker.", rich_help_panel="Cluster"
    ),
]
Reconnect = Annotated[
    float,
    typer.Option(
        min=0, help="Seconds that a lost scheduler is waited for.", rich_help_panel="Cluster"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run and stop.")]
