"""Several runs of one shape, trained as one program, each in a folder of its own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from fwt.execute.alone import OnMetrics, both, say_notes, summary
from fwt.execute.prepare import Prepared, prepare
from fwt.execute.screen import Screen
from fwt.execute.session import Session
from fwt.fwcore.errors import ConfigError, DivergedError, FwtError
from fwt.fwcore.paths import quote
from fwt.fwcore.storage.descriptors import room_for
from fwt.fwcore.storage.runs import DONE, RunFolder, taken
from fwt.fwcore.training.group import Hooks
from fwt.fwcore.training.loop import train_together
from fwt.jobs import Failure, Job, Outcome
from fwt.signals import StopFlag


def train_in(
    folders: Sequence[RunFolder],
    jobs: Sequence[Job],
    prepared: Prepared,
    hooks: Hooks,
    stop_after: int | None = None,
) -> list[Outcome]:
    """Train runs in their folders, which must be entered; one that diverges stops alone."""
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(Session(folder, dict(prepared.facts))) for folder in folders
        ]
        specs = [job.spec for job in jobs]
        results = train_together(prepared.model, specs, prepared.data, folders, hooks, stop_after)
        outcomes = []
        for session, job, result in zip(sessions, jobs, results, strict=True):
            session.reason = DONE if result else f"stopped after {stop_after} updates"
            if isinstance(result, DivergedError):
                session.fail(result)
                outcomes.append(Outcome(job, failure=Failure.of(result)))
            else:
                outcomes.append(Outcome(job, result))
    return outcomes


def run(
    jobs: Sequence[Job],
    *,
    stop_after: int | None = None,
    on_metrics: OnMetrics | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train new runs that differ in the values of lists alone.

    Args:
        jobs: the runs.
        stop_after: stop, saved, after this many updates; None goes to the end.
        on_metrics: called with the means over the runs of every line of metrics.
        quiet: show no progress on stderr.

    Returns:
        What `fwt train --json` prints: `members` with what it prints of each, and the number,
        mean and standard deviation of their test errors in percent, of all and of each setting.

    Raises:
        ConfigError: a folder is taken, or the runs cannot be.
        Interrupted: a signal came; the runs were saved.
        FwtError: something is missing, or cannot be read or written.
    """
    with ExitStack() as stack:
        stack.enter_context(room_for(len(jobs), f"train: {len(jobs)} runs together"))
        prepared = prepare(jobs)
        folders = _new_folders(stack, jobs)
        stop = stack.enter_context(StopFlag())
        say_notes(prepared, quiet)
        screen = stack.enter_context(Screen(prepared.total, quiet))
        hooks = Hooks(on_metrics=both(screen.show, on_metrics), stop_signal=stop.read)
        outcomes = train_in(folders, jobs, prepared, hooks, stop_after)
    members = [
        _member(folder, outcome, prepared)
        for folder, outcome in zip(folders, outcomes, strict=True)
    ]
    return {"members": members, **_all_and_each(jobs, members)}


def _new_folders(stack: ExitStack, jobs: Sequence[Job]) -> list[RunFolder]:
    """New folders, entered; none is left if one cannot be had.

    Raises:
        ConfigError: a folder holds something.
        FileError: one cannot be written.
    """
    there = [job.folder for job in jobs if taken(job.folder)]
    if there:
        raise ConfigError(
            f"out: {len(there)} of {len(jobs)} folders exist, the first is {there[0]}; go on with "
            f"each alone: fwt train --resume {quote(there[0])}, or choose another folder with --out"
        )
    new: list[RunFolder] = []
    try:
        for job in jobs:
            new.append(stack.enter_context(RunFolder.create(job.folder, job.spec)))
    except FwtError:
        for folder in new:
            folder.discard()
        raise
    return new


def _member(folder: RunFolder, outcome: Outcome, prepared: Prepared) -> dict[str, Any]:
    """What is printed of a run: its summary, its label, and why it diverged."""
    end: dict[str, Any] = {"done": False, "step": folder.latest_step(), "steps": prepared.total}
    if outcome.failure is not None:
        end["diverged"] = outcome.failure.message
    elif outcome.result is not None:
        end = {"done": True, **outcome.result}
    return {"label": outcome.job.label, **summary(outcome.job, folder, prepared.facts, end)}


def _all_and_each(jobs: Sequence[Job], members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The statistics of the test errors: of each setting's seeds, and of all runs."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for job, member in zip(jobs, members, strict=True):
        setting = " ".join(word for word in job.label.split() if not word.startswith("seed="))
        groups.setdefault(setting, []).append(member)
    settings = [{"label": label, **_statistics(group)} for label, group in groups.items()]
    return {"settings": settings, **_statistics(members)}


def _statistics(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many runs are done; mean and standard deviation (n - 1) of their test errors, in %."""
    errors = [each["test"]["error_pct"] for each in members if each["done"]]
    return {
        "n": len(errors),
        "mean": statistics.mean(errors) if errors else None,
        "sd": statistics.stdev(errors) if len(errors) > 1 else None,
    }
