"""`fwt report`: runs and sweeps as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.fwcore.spec import RunSpec
    from fwt.fwcore.storage.checkpoint import Checkpoint
    from fwt.plots.curves import Run
    from fwt.report.examples import Judged
    from fwt.report.pictures import Album
    from fwt.tasks.base import Split, Task, TaskSpec


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=options.path,
            metavar="RUN|SWEEP...",
            help="Runs, sweeps (runs/sweeps/NAME), or folders with such.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=options.path, help="The page, a file .html.")
    ] = Path("report.html"),
    split: Annotated[
        str,
        typer.Option(
            autocompletion=complete.of(complete.splits),
            help="train, val or test: of the confusion and the examples.",
        ),
    ] = "val",
    hardest: Annotated[int, typer.Option(min=0, help="Examples shown of each run.")] = 6,
    backend: options.ReadBackend = "numpy",
    names: Annotated[
        str,
        typer.Option(
            "--backends",
            autocompletion=complete.several(complete.named_backends),
            help="Compared with each other, as fwt verify has it.",
        ),
    ] = "all",
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """What was run and what came of it: settings, errors, curves, mistakes, attention, parity.

    Example: fwt report runs/demo -o report.html
    """
    from fwt import tasks
    from fwt.cli.drawing import check_installed

    check_installed("report", "matplotlib")
    from fwt.cli.plot import run_at
    from fwt.find import find
    from fwt.plots.curves import apart
    from fwt.report import page
    from fwt.report.pictures import Album
    from fwt.tasks.base import check_split

    page.check_path(out)
    check_split(split)
    found = find(paths, "report")
    runs, sweeps = [run_at(path) for path in found.runs], found.sweeps
    known = [tasks.parse(run.spec.task, str(run.path)) for run in runs]
    album, looks = Album(), _Looks(split, hardest, backend, names, data_dir, device, known)
    told = [looks.at(run) for run in runs]
    groups = [_swept(path, album) for path in sweeps]
    data: dict[str, Any] = {
        "split": split,
        "runs": [
            {**facts, "apart": words}
            for (facts, _, _), words in zip(told, apart(runs), strict=True)
        ],
        "sweeps": [facts for facts, _ in groups],
    }
    pictures = {
        "curves": album.curves(runs) if runs else [],
        "runs": [_drawn(album, task, found) for _, task, found in told],
        "sweeps": [drawn for _, drawn in groups],
    }
    page.write(out, page.render(data, pictures))
    if as_json:
        print(json.dumps({"page": str(out), **data}))
        return
    for facts in data["runs"]:
        error = "not finished" if facts["test"] is None else f"{facts['test']['error_pct']:.2f}%"
        print(f"run     {show(facts['run'])}  test error {error}")
    for facts in data["sweeps"]:
        print(f"sweep   {show(facts['sweep'])}")
    print(f"page    {show(out)}")


class _Looks:
    """What is computed of each run; data is read once for all runs of a task.

    Args:
        split: the examples that are judged and compared.
        hardest: how many of them are shown.
        backend, device: that judge.
        names: the backends that are compared.
        data_dir: see `fwt.data.folder_for`.
        known: the tasks of all runs.
    """

    def __init__(
        self,
        split: str,
        hardest: int,
        backend: str,
        names: str,
        data_dir: Path | None,
        device: str,
        known: list[TaskSpec],
    ) -> None:
        from fwt.data import load

        self._split, self._hardest, self._names = split, hardest, names
        self._backend, self._device = backend, device
        self._load = cache(lambda options: load(options, data_dir, known))

    def at(self, run: Run) -> tuple[dict[str, Any], Task, Judged | None]:
        """A run: its facts, its task, and its network on the split; None without a checkpoint."""
        from fwt import tasks
        from fwt.fwcore.storage.checkpoint import MODEL_FILE
        from fwt.fwcore.storage.runs import RunFolder, find_checkpoint
        from fwt.opening import on_backend
        from fwt.report.examples import judged
        from fwt.report.runs import facts

        options = tasks.parse(run.spec.task, str(run.path))
        task = self._load(options)  # pyright: ignore[reportArgumentType]
        told = facts(run, task, _recipe(run, task))
        if RunFolder(run.path).latest() is None and not (run.path / MODEL_FILE).is_file():
            return {**told, "checkpoint": None, "judged": None, "parity": None}, task, None
        found = find_checkpoint(run.path)
        split = task.split(self._split)
        model = on_backend(self._backend, found, self._device, "auto")
        seen = judged(model, tasks.reader(options), split, self._hardest)
        place = {key: model.describe(1, 1)[key] for key in ("backend", "device", "dtype")}
        told |= {
            "checkpoint": found.path.name,
            "judged": {**place, **seen.facts},
            "parity": self._parity(found, split),
        }
        return told, task, seen

    def _parity(self, found: Checkpoint, split: Split) -> list[dict[str, Any]]:
        """How far apart the backends are; [] where one alone is installed."""
        from fwt.parity import compare_backends, names_of

        names = names_of(self._names)
        if self._names == "all" and len(names) < 2:
            return []
        return compare_backends(found, split, names, self._device, "auto")


def _recipe(run: Run, task: Task) -> RunSpec:
    """What the recipe of a run's task, model and size would have it be."""
    from fwt.settings import resolve

    asked = {"task": task.spec.json_data(), "model": {"core": {"size": run.spec.model.core.size}}}
    return resolve(task.spec.kind, run.name, {}, asked, None, None, lambda *_: task).spec


def _drawn(album: Album, task: Task, found: Judged | None) -> dict[str, Any]:
    """The pictures of a run."""
    from fwt import tasks

    if found is None:
        return {"confusion": None, "examples": []}
    reader = tasks.reader(task.spec)
    return {
        "confusion": album.confusion(found),
        "examples": [album.example(each, reader) for each in found.seen],
    }


def _swept(path: Path, album: Album) -> tuple[dict[str, Any], list[Any]]:
    """A sweep: its facts, and for each group the curves of its best settings."""
    from fwt.cli.plot import run_at
    from fwt.find import is_run
    from fwt.plots.curves import without
    from fwt.report.pictures import MOST
    from fwt.sweep import summary

    found = summary.read(path)
    root, drawn, shown = summary.root(path), [], []
    for group in found.groups:
        named = [root / run.run for trial in group.trials[:MOST] for run in trial.runs]
        there = [run_at(folder) for folder in named if is_run(folder)]
        drawn.append(album.errors(there))
        told = len(there) - len(without(there, "error", "val"))
        shown.append({"named": len(named), "there": told, "settings": MOST})
    return {**summary.facts(path, found), "curves": shown}, drawn
