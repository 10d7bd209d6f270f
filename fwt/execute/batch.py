"""What a worker does with a batch of jobs: each goes on in its folder, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

from fwt import data
from fwt.execute import alone, together
from fwt.execute.prepare import Prepared, prepare
from fwt.fwcore.errors import ConfigError, DivergedError, FwtError, Interrupted, InUseError
from fwt.fwcore.frozen import digest_of, leaves
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.descriptors import room, room_for
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.group import Hooks
from fwt.fwcore.training.population import OWN
from fwt.jobs import Failure, Job, Outcome, last_outcome
from fwt.lists import AXES

TICK = 0.5  # seconds between two looks whether another process still has a run

# trains a batch and says what came of each job; a cluster's worker imports it by its name
Work = Callable[[Sequence[Job], Hooks], Sequence[Outcome]]

load = cache(data.load)  # a task with its data, read once in a process


def group_by_shape(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs as batches that can each be trained as one program, in the order of their first."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_shape(job.spec), []).append(job)
    return list(groups.values())


def _shape(spec: RunSpec) -> str:
    """What must agree between runs that are trained together."""
    rounded = spec.train.dtype == "bfloat16"  # a population has one rate and decay in it
    free = [path for path in AXES if not (rounded and path.rpartition(".")[2] in OWN)]
    settings = dict(leaves(spec.json_data()))
    return digest_of({path: value for path, value in settings.items() if path not in free})


def work(jobs: Sequence[Job], hooks: Hooks) -> list[Outcome]:
    """Start or go on with the runs of a batch, each in its folder, and train them to their ends.

    Runs whose checkpoints are of one step go on together; a process that died while it saved may
    have left them at two.

    Raises:
        Interrupted: the hooks asked to stop; what ran was saved.
        InUseError: another process has a run of the batch.
        FwtError: a run cannot be trained.
    """
    ends: dict[Path, Outcome] = {}
    while left := [job for job in jobs if job.folder not in ends]:
        batch = [job for job in left if _step(job) == _step(left[0])]
        ends |= {outcome.job.folder: outcome for outcome in _train(batch[: room()], hooks)}
    return [ends[job.folder] for job in jobs]


def _step(job: Job) -> int:
    """The step of a job's last checkpoint."""
    return RunFolder(job.folder).latest_step() or 0


def _folder_of(job: Job) -> RunFolder:
    """The run in a job's folder; made if it is not there, which other processes may do as well."""
    try:
        return RunFolder.create(job.folder, job.spec)
    except InUseError:
        raise
    except ConfigError:  # the folder is taken
        if not (job.folder / "spec.json").is_file():
            raise
        return RunFolder.open(job.folder)


def _train(jobs: Sequence[Job], hooks: Hooks) -> Sequence[Outcome]:
    """Train a batch whose checkpoints are of one step.

    What is known of the runs is looked at again once no other process can change it: if one has
    ended or gone on since, nothing is trained.

    Returns:
        What came of the runs; where nothing was trained, of those that had ended.
    """
    prepared = prepare(jobs, load)  # pyright: ignore[reportArgumentType]
    with ExitStack() as stack:
        stack.enter_context(room_for(len(jobs), "sweep"))
        # in one order, so that no two processes wait for each other
        folders = {
            job.folder: stack.enter_context(_folder_of(job))
            for job in sorted(jobs, key=lambda job: job.folder)
        }
        before = [outcome for job in jobs if (outcome := last_outcome(job)) is not None]
        if before or len(set(map(_step, jobs))) > 1:
            return [replace(outcome, attempts=1) for outcome in before]
        if len(jobs) == 1:
            return [_train_one(folders[jobs[0].folder], jobs[0], prepared, hooks)]
        return together.train_in([folders[job.folder] for job in jobs], jobs, prepared, hooks)


def _train_one(folder: RunFolder, job: Job, prepared: Prepared, hooks: Hooks) -> Outcome:
    try:
        return Outcome(job, alone.train_in(folder, job, prepared, hooks))
    except DivergedError as error:
        return Outcome(job, failure=Failure.of(error))


def carry_out(
    work: Work, jobs: Sequence[Job], hooks: Hooks, wait: Callable[[], None]
) -> list[Outcome]:
    """Do the work of a batch; while another process has a run of it, wait for that process.

    The run goes on where that process left it, or is not trained again if it was ended there.

    Args:
        work: what trains the batch.
        jobs: the batch.
        hooks: of the training; asked whether to stop while waiting too.
        wait: called when the wait begins.

    Raises:
        Interrupted: the hooks asked to stop; what ran was saved.
        Exception: what is no error of the product's own.
    """
    waits = False
    while True:
        try:
            return list(work(jobs, hooks))
        except Interrupted:
            raise
        except InUseError as error:
            if (number := hooks.stop_signal()) is not None:
                raise Interrupted(str(error), number) from error
            if not waits:
                wait()
            waits = True
            time.sleep(TICK)
        except FwtError as error:
            return [Outcome(job, failure=Failure.of(error)) for job in jobs]
