"""`fwt convert`: checkpoints to and from the layouts of `torch.nn` and `mlx.nn`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.fwcore.paths import show


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            parser=options.checkpoint, help="A run, checkpoint, .safetensors, .npz or .pt file."
        ),
    ],
    target: Annotated[
        Path, typer.Argument(parser=options.path, help="The folder to write; it must not exist.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", autocompletion=complete.of(complete.layouts), help="torch, mlx or fwt."
        ),
    ],
    spec: Annotated[
        Path | None,
        typer.Option(parser=options.path, help="spec.json of a file that does not say what it is."),
    ] = None,
    source_layout: Annotated[
        str | None,
        typer.Option(
            "--from",
            autocompletion=complete.of(complete.layouts),
            help="Layout of such a file: torch, mlx or fwt.",
        ),
    ] = None,
    zero_biases: Annotated[
        bool,
        typer.Option("--zero-biases", help="Take zeros for biases that the file has not."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify", help="Run the result on every installed backend.")
    ] = False,
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Convert a checkpoint, weights and optimiser state, between layouts.

    fwt checkpoints need no conversion between backends; this is for users of plain torch.nn or
    mlx.nn code. Example: fwt convert runs/demo demo-mlx --to mlx --verify
    """
    import fwt
    from fwt.cli.verify import print_rows
    from fwt.fwcore.errors import CheckFailed
    from fwt.fwcore.storage.foreign import load
    from fwt.parity import names_of, verify_checkpoint

    found = fwt.convert(
        source, target, to, spec=spec, layout=source_layout, zero_biases=zero_biases
    )
    rows = []
    if check:
        rows = verify_checkpoint(load(target), names_of("all"), data_dir=data_dir)["pairs"]
    if as_json:
        result = {"source": str(source), "target": str(target), "to": to, "notes": found.notes}
        print(json.dumps({**result, "pairs": rows}))
    else:
        print(f"wrote {show(target)} in the {to} layout: {len(found.params)} parameters")
        for note in found.notes:
            print(f"  {note}")
        if rows:
            print_rows(rows)
    if not all(row["ok"] for row in rows):
        raise CheckFailed("convert: the backends are out of tolerance on the result")
