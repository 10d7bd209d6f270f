"""What a worker of a sweep does with a batch of jobs: what `fwt train` does in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import tasks
from cli import population, running
from cli.lists import AXES
from cli.resolve import name_of
from cli.running import Place
from fwcore.errors import DivergedError
from fwcore.frozen import digest_of
from fwcore.population import OWN
from fwcore.runs import RunFolder
from fwcore.spec import RunSpec
from fwcore.train import Hooks
from sweeps.jobs import Ended, Job
from tasks.base import Task, TaskSpec


def together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs as batches that can each be trained as one program, in the order of their first."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(_shape(job.spec), []).append(job)
    return list(found.values())


def _shape(spec: RunSpec) -> str:
    """What must agree between runs that are trained together."""
    data = spec.json_data()
    rounded = spec.train.dtype == "bfloat16"  # see `fwcore.population.own_rates`
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


def _run_of(job: Job) -> running.Job:
    """A job as `fwt train` sees it, its folder opened if it is there."""
    task = _task(tasks.parse(job.spec.task), job.data_dir)
    there = (job.folder / "spec.json").is_file()
    name = name_of(job.spec.model.core.json_data())
    return running.Job(job.spec, name, task, RunFolder.open(job.folder) if there else None)


def work(jobs: Sequence[Job], hooks: Hooks) -> list[Ended]:
    """Start or go on with the runs of a batch, each in its folder, and train them to their ends.

    Runs whose checkpoints are of one step go on together; a process that died while it saved may
    have left them at two.

    Raises:
        Interrupted: the hooks asked to stop; what ran was saved.
        FwtError: a run cannot be trained.
    """
    steps: dict[int, list[Job]] = {}
    for job in jobs:
        steps.setdefault(RunFolder(job.folder).latest_step() or 0, []).append(job)
    ended: dict[Path, Ended] = {}
    for batch in steps.values():
        found = _alone(batch[0], hooks) if len(batch) == 1 else _many(batch, hooks)
        ended |= {job.folder: each for job, each in zip(batch, found, strict=True)}
    return [ended[job.folder] for job in jobs]


def _alone(job: Job, hooks: Hooks) -> list[Ended]:
    run = _run_of(job)
    given = running.ready(run, Place(job.backend, job.device, job.memory))
    folder = run.folder or RunFolder.create(job.folder, job.spec)
    with folder:
        done = folder.read_json("DONE")  # another process may have been quicker
        return [Ended(done or running.train_in(folder, job.spec, given, hooks), None)]


def _many(jobs: Sequence[Job], hooks: Hooks) -> list[Ended]:
    runs, first = [_run_of(job) for job in jobs], jobs[0]
    given = population.ready(runs, Place(first.backend, first.device, first.memory))
    with ExitStack() as stack:
        folders = [
            stack.enter_context(run.folder or RunFolder.create(job.folder, job.spec))
            for job, run in zip(jobs, runs, strict=True)
        ]
        outcomes = population.train_in(folders, [job.spec for job in jobs], given, hooks)
    return [
        Ended.by(each) if isinstance(each, DivergedError) else Ended(each, None)
        for each in outcomes
    ]
