"""The `fwt` command: its verbs, `--version`, and the exit code."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from fwt.cli import (
    associator,
    bench,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    failure,
    gradients,
    inspect,
    listing,
    plot,
    predict,
    report,
    reproduce,
    streams,
    sweep,
    train,
    verify,
)
from fwt.cli.command import Command

NARROW = 50  # columns of a terminal in which a table of options has no room for its texts

app = typer.Typer(
    name="fwt",
    help="Fast weights on MLX and PyTorch: train, evaluate, compare and convert.",
    epilog="Exit codes: 0 ok, 1 a check failed, 2 usage, 3 backend or device missing, "
    "4 file or data missing or damaged, 5 diverged, 6 another process lost, "
    "129/130/143 interrupted (after saving).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if shutil.get_terminal_size().columns >= NARROW else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("inspect")(inspect.inspect)
app.command("demo")(demo.demo)
app.command("gradients")(gradients.gradients)
app.command("plot")(plot.plot)
app.command("report")(report.report)
app.command("associator")(associator.associator)
app.command("sweep")(sweep.sweep)
app.command("reproduce")(reproduce.reproduce)
app.command("verify")(verify.verify)
app.command("convert")(convert.convert)
app.command("bench")(bench.bench)
app.command("list")(listing.show)
app.command("data")(data.data)
app.command("doctor")(doctor.doctor)
for each in app.registered_commands:
    each.cls = Command


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"fwt {version('fwt')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fast weights on MLX and PyTorch: train, evaluate, compare and convert."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the words after `fwt`; None takes those of the process.
    """
    return failure.guarded(lambda: app(arguments, prog_name="fwt", standalone_mode=False))


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(streams.guarded(run))


if __name__ == "__main__":
    main()
