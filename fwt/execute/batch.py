"""What a worker of a sweep does with a batch of jobs: what `fwt train` does in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from fwt import tasks
from fwt.execute import alone, together
from fwt.execute.alone import Place, Ready
from fwt.fwcore.errors import ConfigError, DivergedError, InUseError
from fwt.fwcore.frozen import digest_of
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.descriptors import room, room_for
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.loop import Hooks, Outcome
from fwt.fwcore.training.population import OWN
from fwt.jobs import Ended, Job, finished
from fwt.lists import AXES
from fwt.settings import name_of
from fwt.tasks.base import Task, TaskSpec


def group_by_shape(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs as batches that can each be trained as one program, in the order of their first."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(_shape(job.spec), []).append(job)
    return list(found.values())


def _shape(spec: RunSpec) -> str:
    """What must agree between runs that are trained together."""
    data = spec.json_data()
    rounded = spec.train.dtype == "bfloat16"  # see `fwt.fwcore.training.population.own_rates`
    for path in AXES:
        *tables, key = path.split(".")
        table = data
        for name in tables:
            table = table[name]
        if not (rounded and key in OWN):
            table.pop(key, None)
    return digest_of(data)


@cache
def _task(spec: TaskSpec, data_dir: Path | None) -> Task:
    """A task with its data, read once in a process."""
    return tasks.load(spec, data_dir)


def _run_of(job: Job) -> alone.Job:
    """A job as `fwt train` sees it."""
    task = _task(tasks.parse(job.spec.task), job.data_dir)
    return alone.Job(job.spec, name_of(job.spec.model.core.json_data()), task)


def work(jobs: Sequence[Job], hooks: Hooks) -> list[Ended]:
    """Start or go on with the runs of a batch, each in its folder, and train them to their ends.

    Runs whose checkpoints are of one step go on together; a process that died while it saved may
    have left them at two.

    Raises:
        Interrupted: the hooks asked to stop; what ran was saved.
        InUseError: another process has a run of the batch.
        FwtError: a run cannot be trained.
    """
    ended: dict[Path, Ended] = {}
    while left := [job for job in jobs if job.folder not in ended]:
        batch = [job for job in left if _step(job) == _step(left[0])]
        ended |= _trained(batch[: room()], hooks)
    return [ended[job.folder] for job in jobs]


def _step(job: Job) -> int:
    """The step of a job's last checkpoint."""
    return RunFolder(job.folder).latest_step() or 0


def _begun(job: Job) -> RunFolder:
    """The run in a job's folder; made if it is not there, which other processes may do as well."""
    try:
        return RunFolder.create(job.folder, job.spec)
    except InUseError:
        raise
    except ConfigError:  # the folder is taken
        if not (job.folder / "spec.json").is_file():
            raise
        return RunFolder.open(job.folder)


def _trained(jobs: Sequence[Job], hooks: Hooks) -> dict[Path, Ended]:
    """Train a batch whose checkpoints are of one step.

    What is known of the runs is looked at again once no other process can change it: if one has
    ended or gone on since, nothing is trained.

    Returns:
        How the runs ended; where nothing was trained, those that had.
    """
    runs = [_run_of(job) for job in jobs]
    place = Place(jobs[0].backend, jobs[0].device, jobs[0].memory)
    single = len(jobs) == 1
    given = alone.ready(runs[0], place) if single else together.ready(runs, place)
    with ExitStack() as stack:
        stack.enter_context(room_for(len(jobs), "sweep"))
        # in one order, so that no two processes wait for each other
        entered = {
            job.folder: stack.enter_context(_begun(job))
            for job in sorted(jobs, key=lambda job: job.folder)
        }
        before = {job.folder: each for job in jobs if (each := finished(job)) is not None}
        if before or len(set(map(_step, jobs))) > 1:
            return before
        folders, specs = [entered[job.folder] for job in jobs], [job.spec for job in jobs]
        if single:
            outcomes = [_alone(folders[0], specs[0], given, hooks)]
        else:
            outcomes = together.train_in(folders, specs, given, hooks)
    return {
        job.folder: Ended.by(each) if isinstance(each, DivergedError) else Ended(each, None)
        for job, each in zip(jobs, outcomes, strict=True)
    }


def _alone(folder: RunFolder, spec: RunSpec, given: Ready, hooks: Hooks) -> Outcome:
    """Train one run; an outcome as `fwt.fwcore.training.loop.train_together` has it."""
    try:
        return alone.train_in(folder, spec, given, hooks)
    except DivergedError as error:
        return error
