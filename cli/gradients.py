"""`fwt gradients`: how far back in time the gradients of networks reach."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from fwt.cli import options
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.fwcore.ops import NumpyArray
    from fwt.fwcore.spec import RunSpec
    from fwt.tasks.base import TaskSpec

SPECS = (".json", ".toml")
TRAINED, FIRST = "trained", "first weights"


class Subject(NamedTuple):
    """A network to look at.

    Attributes:
        path: as it was named.
        spec: of its run.
        weights: `TRAINED` or `FIRST`.
        params: its weights by canonical name.
    """

    path: Path
    spec: RunSpec
    weights: str
    params: dict[str, NumpyArray]


def gradients(
    networks: Annotated[
        list[Path],
        typer.Argument(
            parser=options.path,
            help="Runs, folders with runs, checkpoints, or specs (spec.json, .toml): "
            "their first weights.",
        ),
    ],
    first: Annotated[bool, typer.Option("--first", help="Also each one's first weights.")] = False,
    examples: Annotated[int, typer.Option(min=1, help="Examples of the test split.")] = 64,
    jacobians: Annotated[
        int, typer.Option(min=1, help="How many of them Jacobians are taken of.")
    ] = 4,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="K of the strings, instead of the network's own.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(parser=options.path, help="Draw them: .png or .svg.")
    ] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """|dE/dh(tau)| against tau, and the norms of the Jacobians dh(t+1)/dh(t) and dh(T)/dh(t).

    All of them count every way from one state to another, that through the fast weights too.
    Example: fwt gradients checkpoints/retrieval-fast-weights-r20 --first --pairs 12
    """
    from fwt import tasks
    from fwt.cli.drawing import check_drawing

    check_drawing([figure])
    jacobians = min(jacobians, examples)
    result: dict[str, Any] = {"examples": examples, "jacobians": jacobians, "networks": []}
    subjects = list(_subjects(networks, first))
    known = [tasks.parse(subject.spec.task, str(subject.path)) for subject in subjects]
    for subject in subjects:
        if not quiet:
            print(f"{show(subject.path)}, {subject.weights}", file=sys.stderr, flush=True)
        inputs, targets = _examples(subject, pairs, examples, data_dir, known)
        found = _found(subject, backend, device, inputs, targets, jacobians)
        result["networks"].append(found)
    if figure is not None:
        from fwt.plots import canvas, flow

        canvas.save(flow.gradients(result["networks"]), figure)
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)


def _subjects(paths: list[Path], first: bool) -> Iterator[Subject]:
    """The networks in the order in which they were named."""
    from fwt.find import find
    from fwt.fwcore import model
    from fwt.fwcore.params import initialise
    from fwt.fwcore.storage.checkpoint import MODEL_FILE
    from fwt.fwcore.storage.runs import find_checkpoint

    def named(path: Path) -> list[Path]:
        if not path.is_dir() or (path / MODEL_FILE).is_file():
            return [path]
        return find([path], "gradients").all_runs()

    for path in (each for given in paths for each in named(given)):
        if path.suffix.lower() in SPECS:
            spec, params = _spec_of(path), None
        else:
            found = find_checkpoint(path)
            spec, params = found.spec, found.params
        if params is not None:
            yield Subject(path, spec, TRAINED, params)
        if first or params is None:
            table = model.parameters(spec.model)
            yield Subject(path, spec, FIRST, initialise(table, spec.train.seed))


def _spec_of(path: Path) -> RunSpec:
    """The run that a file describes, over the recipe that its task and model have."""
    from fwt.settings import read_config, resolve

    config = read_config(path)
    task = config.get("task", {}).get("kind", "retrieval")
    return resolve(str(task), None, config, {}, None, None).spec


def _examples(
    subject: Subject,
    pairs: int | None,
    count: int,
    data_dir: Path | None,
    others: list[TaskSpec],
) -> tuple[NumpyArray, NumpyArray]:
    """The first examples of the test split.

    Raises:
        ConfigError: `--pairs` for a task that has none, or more examples than there are.
    """
    from fwt import tasks
    from fwt.data import load
    from fwt.fwcore.errors import ConfigError

    given = dict(subject.spec.task) | ({} if pairs is None else {"pairs": pairs})
    task = load(tasks.parse(given, str(subject.path)), data_dir, others)
    test = task.split("test")
    if count > len(test):
        raise ConfigError(f"--examples: expected at most {len(test)}, got examples={count}")
    return test.inputs[:count], test.targets[:count]


def _found(
    subject: Subject,
    backend: str,
    device: str,
    inputs: NumpyArray,
    targets: NumpyArray,
    jacobians: int,
) -> dict[str, Any]:
    """The norms of one network."""
    from fwt import backends
    from fwt.fwcore.analysis.flow import flow
    from fwt.settings import name_of

    spec = subject.spec
    loaded = backends.load(backend, spec.train.precision)
    dtype = "auto" if loaded.name == "numpy" else spec.train.dtype
    network = loaded.compile(spec.model, subject.params, device=device, dtype=dtype)
    norms = flow(network, inputs, targets, jacobians)
    return {
        "path": str(subject.path),
        "label": f"{name_of(spec.model.core.json_data())} R={spec.model.core.size}",
        "weights": subject.weights,
        "backend": loaded.name,
        "loss": norms.loss.tolist(),
        "jacobians": norms.jacobians.tolist(),
        "reach": norms.reach.tolist(),
    }


def _show(result: dict[str, Any]) -> None:
    """A table of each network, the earliest step first."""
    from rich.console import Console
    from rich.table import Table

    out = Console(width=100, highlight=False)
    for network in result["networks"]:
        title = f"{network['label']}, {network['weights']} ({show(network['path'])})"
        out.print(title, markup=False)
        table = Table(box=None, pad_edge=False)
        for name in ("tau", "|dE/dh(tau)|", "|dh(tau+1)/dh(tau)|", "|dh(T)/dh(tau)|"):
            table.add_column(name, justify="right")
        columns = [network[name] for name in ("loss", "jacobians", "reach")]
        for tau in range(len(network["loss"])):
            cells = [f"{c[tau]:.3g}" if tau < len(c) else "" for c in columns]
            table.add_row(str(tau), *cells)
        out.print(table)
