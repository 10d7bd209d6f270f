"""One run, trained in its folder by this process or by several together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from fwt.execute.prepare import Prepared, prepare
from fwt.execute.screen import Screen
from fwt.execute.session import Session, close_session, last_session
from fwt.fwcore.storage.runs import DONE, RunFolder
from fwt.fwcore.training import launcher
from fwt.fwcore.training.group import Hooks
from fwt.fwcore.training.loop import train
from fwt.jobs import Job, Revision
from fwt.signals import StopFlag

OnMetrics = Callable[[dict[str, Any]], None]


def train_in(
    folder: RunFolder, job: Job, prepared: Prepared, hooks: Hooks, stop_after: int | None = None
) -> dict[str, Any] | None:
    """Train a run in its folder, which must be entered; the result is that of `train`."""
    with Session(folder, prepared.facts) as session:
        result = train(
            prepared.model, job.spec, prepared.data, folder, hooks, stop_after, prepared.ranks
        )
        session.reason = DONE if result else f"stopped after {stop_after} updates"
    return result


def both(show: OnMetrics, on_metrics: OnMetrics | None) -> OnMetrics:
    """Calls both with a line of metrics."""

    def call(line: dict[str, Any]) -> None:
        show(line)
        if on_metrics is not None:
            on_metrics(line)

    return call


def run(
    job: Job,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    on_metrics: OnMetrics | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Train a run to its end.

    A run that is done gives its result again, unless it is to be longer.

    Args:
        job: the run.
        resume: whether it is in its folder already; else the folder must be free.
        stop_after: stop, saved, after this many updates of this call; None goes to the end.
        on_metrics: called with every line of metrics as it is written.
        quiet: show no progress on stderr.

    Returns:
        What `fwt train --json` prints; None on a process that another one speaks for.

    Raises:
        ConfigError: the folder is taken, or the run cannot be.
        DivergedError: a loss is not finite; the last good checkpoint stays.
        Interrupted: a signal came; the run was saved.
        FwtError: something is missing, or cannot be read or written.
    """
    folder = RunFolder(job.folder)
    done = folder.read_json("DONE") if resume and not job.new_length else None
    if done is not None:
        return _result_again(job, folder, done, quiet)
    prepared = prepare([job])
    if prepared.ranks.number:
        _follow(job, folder, prepared, stop_after)
        return None
    if not resume:
        folder = RunFolder.create(job.folder, job.spec)
    screen = Screen(prepared.total, quiet, folder.latest_step() or 0)
    _warn_of_threads(folder, prepared.facts)
    with folder, StopFlag() as stop, screen:
        say_notes(prepared, quiet)
        if job.revision is not None:
            folder.revise(job.revision.before, job.spec, job.revision.step)
            if job.new_length and not quiet:
                _say(_new_length(job, prepared, job.revision))
        hooks = Hooks(on_metrics=both(screen.show, on_metrics), stop_signal=stop.read)
        result = train_in(folder, job, prepared, hooks, stop_after)
    stopped = {"done": False, "step": folder.latest_step(), "steps": prepared.total}
    end = {"done": True, **result} if result else stopped
    return summary(job, folder, prepared.facts, end)


def _result_again(
    job: Job, folder: RunFolder, done: Mapping[str, Any], quiet: bool
) -> dict[str, Any] | None:
    close_session(folder)
    part = launcher.follower()
    if part is None:
        return summary(job, folder, last_session(folder), {"done": True, **done})
    if not quiet:
        first = f"process 0 of {part.count} prints the result, this is process {part.number}"
        _say(f"{first} ({part.told})")
    return None


def _follow(job: Job, folder: RunFolder, prepared: Prepared, stop_after: int | None) -> None:
    """Take part in a run that another process writes down and tells of."""
    with StopFlag() as stop:
        hooks = Hooks(stop_signal=stop.read)
        train(prepared.model, job.spec, prepared.data, folder, hooks, stop_after, prepared.ranks)


def summary(
    job: Job, folder: RunFolder, facts: Mapping[str, Any], end: Mapping[str, Any]
) -> dict[str, Any]:
    """What `fwt train --json` prints of a run; the same keys for one that was done before.

    Args:
        job: the run.
        folder: its folder.
        facts: of its session.
        end: how it ended: `done`, and its result or the step where it stands.
    """
    return {
        "run": str(folder.path),
        "model": job.model,
        "dataset": job.task.dataset if job.task else facts.get("dataset"),
        "checkpoint": str(folder.latest() or ""),
        "best_checkpoint": str(folder.best() or ""),
        **{key: facts.get(key) for key in ("backend", "device", "dtype", "memory")},
        **end,
    }


def say_notes(prepared: Prepared, quiet: bool) -> None:
    """Say on stderr what was changed in the weights that runs begin with."""
    for note in prepared.facts.get("init", {}).get("notes", ()):
        if not quiet:
            _say(f"weights   {note}")


def _warn_of_threads(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Say on stderr that a run goes on with another number of threads: their sums differ."""
    before, now = last_session(folder).get("threads"), facts.get("threads")
    if None not in (before, now) and before != now:
        _say(
            f"threads   {before} -> {now}: weights from here on are not bit for bit those of "
            f"{before}; for the same: OMP_NUM_THREADS={before}"
        )


def _new_length(job: Job, prepared: Prepared, revision: Revision) -> str:
    """What a person is told of a run's new length, and of what it means for the schedule."""
    before = revision.before.train.total_steps(len(prepared.data.train))
    text = f"length    {before} -> {prepared.total} updates"
    if job.spec.train.schedule == "constant":
        return text
    return (
        f"{text}; learning rates after update {revision.step} are those of a run of "
        f"{prepared.total}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
