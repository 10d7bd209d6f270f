"""Runs and sweeps below the paths that a user names, for every verb that takes several runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fwt.fwcore.errors import FileError
from fwt.sweep import summary


@dataclass(frozen=True)
class Found:
    """What is below some paths, each once, in the order of the paths.

    Attributes:
        runs: folders of runs.
        sweeps: folders of sweeps.
    """

    runs: list[Path] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)

    def all_runs(self) -> list[Path]:
        """The runs, and those of the sweeps that are where these left them."""
        given = [*self.runs, *(run for sweep in self.sweeps for run in runs_of(sweep))]
        return list({run.resolve(): run for run in given if is_run(run)}.values())


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / "spec.json").is_file()


def is_sweep(path: Path) -> bool:
    """Whether a folder is that of a sweep that has ended."""
    return (path / summary.FILE).is_file()


def runs_of(sweep: Path) -> list[Path]:
    """The folders of a sweep's runs, which need not be there any more.

    Raises:
        FileError: its summary is damaged.
    """
    root, groups = summary.root(sweep), summary.read(sweep).groups
    return [root / run.run for group in groups for trial in group.trials for run in trial.runs]


def find(paths: Iterable[Path], verb: str) -> Found:
    """The runs and sweeps that paths name, or that are below them; links are followed.

    Args:
        paths: folders.
        verb: the beginning of an error.

    Raises:
        FileError: there is none at or below a path, or a folder cannot be read.
    """
    found, seen = Found(), set()
    for path in paths:
        here = list(_below(path, verb))
        if not here:
            raise FileError(
                f"{verb}: {path}: neither a run nor a sweep that has ended, nor a folder with such "
                f"below it; expected spec.json, or {summary.FILE} in runs/sweeps/NAME"
            )
        for each in here:
            if each.resolve() not in seen:
                seen.add(each.resolve())
                (found.runs if is_run(each) else found.sweeps).append(each)
    return found


def _below(path: Path, verb: str) -> Iterator[Path]:
    """The folders of runs and sweeps at and below a path, in order; no folder is entered twice."""

    def refuse(error: OSError) -> None:
        raise FileError(f"{verb}: {error.filename} cannot be read: {error.strerror}") from error

    entered = set()
    for folder, names, _ in os.walk(path, onerror=refuse, followlinks=True):
        here = Path(folder)
        about = here.stat()
        place = (about.st_dev, about.st_ino)
        if place in entered:  # a link leads back, or here a second time
            names.clear()
            continue
        entered.add(place)
        names.sort()
        if is_run(here):
            names.clear()  # its checkpoints are no runs
            yield here
        elif is_sweep(here):
            yield here
