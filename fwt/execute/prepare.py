"""What runs need before their folders are touched: backend, model, data; what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fwt import backends, data, environment, initial, tasks
from fwt.backends.contract import Backend, Compiled, Population, compile_population
from fwt.fwcore.analysis import estimate
from fwt.fwcore.errors import BackendError
from fwt.fwcore.frozen import changes
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training import launcher
from fwt.fwcore.training.batches import BatchOrder, Data
from fwt.fwcore.training.ranks import SINGLE, Ranks, check_together
from fwt.jobs import Job
from fwt.opening import check_form
from fwt.tasks.base import SPLITS, Task


@dataclass(frozen=True)
class Prepared:
    """What one run, or several of one shape, are trained with.

    Attributes:
        backend: the backend's name.
        model: the model, or the population.
        task: the task.
        data: its splits.
        facts: what `run.json` says of this process's part of the run.
        total: updates of a run.
        ranks: the processes that train it together.
    """

    backend: str
    model: Any
    task: Task
    data: Data
    facts: dict[str, Any]
    total: int
    ranks: Ranks = SINGLE


def prepare(jobs: Sequence[Job], load: data.Load = data.load) -> Prepared:
    """Prepare one run, or several that are trained as one program.

    Args:
        jobs: the runs; of several the specs differ in what a population may differ in.
        load: what loads a task that no job has at hand.

    Raises:
        ConfigError: the runs cannot fit into the device's memory, a batch is larger than the
            training split, or several runs are to be trained on several processes.
        BackendError: the backend or device is missing, or cannot train.
    """
    job = jobs[0]
    if len(jobs) > 1:
        launcher.check_alone(f"train: {len(jobs)} runs")
    task = job.task or load(tasks.parse(job.spec.task), job.data_dir)
    backend = _trainer(job, task, len(jobs))
    splits = Data(*(task.split(name) for name in SPLITS))
    train = job.spec.train
    BatchOrder(train.seed, len(splits.train), train.batch_size)  # refuses misfits
    firsts = [initial.first_weights(_beginning(each)) for each in jobs]
    place = {"device": job.device, "dtype": train.dtype, "memory": job.memory}
    ranks: Ranks = SINGLE
    model: Compiled | Population
    if len(jobs) == 1:
        model = backend.compile(job.spec.model, firsts[0].weights, **place)
        ranks = backend.ranks()
        check_together(ranks, job.spec)
    else:
        weights = [first.weights for first in firsts]
        model = compile_population(backend, [each.spec.model for each in jobs], weights, **place)
    facts = _facts(job, task, backend, model, firsts[0].notes, ranks)
    total = train.total_steps(len(splits.train))
    return Prepared(backend.name, model, task, splits, facts, total, ranks)


def _beginning(job: Job) -> RunSpec:
    """The spec without `init` where the run has a checkpoint, whose weights are taken."""
    if RunFolder(job.folder).latest() is None:
        return job.spec
    return job.spec.model_copy(update={"init": None})


def _trainer(job: Job, task: Task, members: int) -> Backend:
    """The backend that is to train so many runs at once, if it can."""
    spec = job.spec
    backend = backends.load(job.backend, spec.train.precision)
    if backend.name not in backends.TRAINING_ORDER:
        able = " or ".join(backends.TRAINING_ORDER)
        raise BackendError(f"backend {backend.name}: it cannot train; use --backend {able}")
    check_form(spec.model, job.memory)
    needed = task.data_bytes + members * estimate.training_bytes(
        spec.model, spec.train, task.shape.steps, job.memory
    )
    available = backend.memory_bytes(job.device)
    device = backend.devices()[0] if job.device == "auto" else job.device
    estimate.check_memory(needed, available, f"device {device} of backend {backend.name}")
    return backend


def _facts(
    job: Job,
    task: Task,
    backend: Backend,
    model: Compiled | Population,
    notes: tuple[str, ...],
    ranks: Ranks,
) -> dict[str, Any]:
    """What `run.json` says of this process's part of a run; `notes` are of its first weights."""
    more: dict[str, Mapping[str, Any]] = {}
    if job.revision is not None:
        more["changed"] = changes(job.revision.before.json_data(), job.spec.json_data())
    if job.spec.init is not None:
        more["init"] = {**job.spec.init.json_data(), **({"notes": list(notes)} if notes else {})}
    return {
        **environment.facts(backend.versions()),
        **model.describe(job.spec.train.batch_size, task.shape.steps),
        "precision": job.spec.train.precision,
        "model": job.model,
        "dataset": task.dataset,
        "published_pct": replace(job, task=task).published_error,
        "processes": ranks.count,
        **{key: value for key, value in more.items() if value},
    }
