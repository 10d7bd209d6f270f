"""A training run from its spec to its result, as `fwt train` needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwt import backends, environment, initial
from fwt.backends.contract import Backend, Compiled, Population
from fwt.execute.screen import Screen
from fwt.fwcore.analysis import estimate
from fwt.fwcore.errors import BackendError, FileError, FwtError
from fwt.fwcore.frozen import changes
from fwt.fwcore.paths import quote, show
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import DONE, RUNNING, RunFolder, default_path
from fwt.fwcore.training import launcher
from fwt.fwcore.training.batches import BatchOrder
from fwt.fwcore.training.loop import Data, Hooks, train
from fwt.fwcore.training.ranks import SINGLE, Ranks, check_together
from fwt.opening import check_form
from fwt.settings import Resolved
from fwt.signals import StopFlag
from fwt.tasks.base import SPLITS, Task


@dataclass(frozen=True)
class Place:
    """Where a model runs; not part of the spec, so that a run can move.

    Attributes:
        backend: a name of `fwt.backends.BACKENDS`, or `auto`.
        device: see `fwt.backends.contract.Backend.compile`.
        memory: a form of `fwt.fwcore.memory.FORMS`.
    """

    backend: str
    device: str
    memory: str


@dataclass(frozen=True)
class Revision:
    """A change of a run's length or reports, yet to be written into its folder.

    Attributes:
        before: the spec that the run has.
        step: the step of its last checkpoint.
    """

    before: RunSpec
    step: int


@dataclass(frozen=True)
class Job:
    """A run to start or to go on with.

    Attributes:
        spec: the run.
        name: the model's name on the command line.
        task: the task with its data at hand.
        folder: the run's folder if it is there already.
        revision: how the spec differs from the one in that folder; None if it does not.
    """

    spec: RunSpec
    name: str
    task: Task
    folder: RunFolder | None = None
    revision: Revision | None = None

    @property
    def new_length(self) -> bool:
        """Whether the run is to have another length than its folder says."""
        return self.revision is not None and self.revision.before.train != self.spec.train


def fresh(resolved: Resolved) -> Job:
    """A new run."""
    return Job(resolved.spec, resolved.name, resolved.task)


def print_spec(spec: RunSpec) -> None:
    """The resolved spec on stdout (`--dry-run`)."""
    print(json.dumps(spec.json_data(), indent=1))


def trainer(spec: RunSpec, place: Place, task: Task, members: int = 1) -> Backend:
    """The backend that is to train a run, after all that can be refused before work begins.

    Args:
        members: how many such runs are trained at once.

    Raises:
        ConfigError: the run cannot fit into the device's memory.
        BackendError: the backend or device is missing, or cannot train.
    """
    backend = backends.load(place.backend, spec.train.precision)
    if backend.name not in backends.TRAINING_ORDER:
        able = " or ".join(backends.TRAINING_ORDER)
        raise BackendError(f"backend {backend.name}: it cannot train; use --backend {able}")
    check_form(spec.model, place.memory)
    needed = task.data_bytes + members * estimate.training_bytes(
        spec.model, spec.train, task.shape.steps, place.memory
    )
    available = backend.memory_bytes(place.device)
    device = backend.devices()[0] if place.device == "auto" else place.device
    estimate.check_memory(needed, available, f"device {device} of backend {backend.name}")
    return backend


def splits(job: Job) -> Data:
    """The splits of a run's task.

    Raises:
        ConfigError: a batch is larger than the training split.
    """
    data = Data(*(job.task.split(name) for name in SPLITS))
    BatchOrder(job.spec.train.seed, len(data.train), job.spec.train.batch_size)  # refuses misfits
    return data


def session_facts(
    job: Job,
    backend: Backend,
    made: Compiled | Population,
    notes: tuple[str, ...],
    ranks: Ranks = SINGLE,
) -> dict[str, Any]:
    """What `run.json` says of this process's part of a run; `notes` are of its first weights."""
    changed, init = {}, {}
    if job.spec.init is not None:
        init = {**job.spec.init.json_data(), **({"notes": list(notes)} if notes else {})}
    if job.revision is not None:
        changed = changes(job.revision.before.json_data(), job.spec.json_data())
    return {
        **environment.facts(backend.versions()),
        **made.describe(job.spec.train.batch_size, job.task.shape.steps),
        "precision": job.spec.train.precision,
        "model": job.name,
        "dataset": job.task.dataset,
        "published_pct": published(job),
        "processes": ranks.count,
        **({"changed": changed} if changed else {}),
        **({"init": init} if init else {}),
    }


@dataclass(frozen=True)
class Ready:
    """What one or several runs of one shape need before their folders are touched.

    Attributes:
        backend: the backend's name.
        model: the model, or the population.
        data: the task's splits.
        facts: see `session_facts`.
        total: updates of a run.
        ranks: the processes that train it together.
    """

    backend: str
    model: Any
    data: Data
    facts: dict[str, Any]
    total: int
    ranks: Ranks = SINGLE


def ready(job: Job, place: Place) -> Ready:
    """Backend, model and data of a run; see `trainer` and `splits` for what is refused."""
    backend = trainer(job.spec, place, job.task)
    data = splits(job)
    begun = job.folder is not None and job.folder.latest() is not None
    spec = job.spec.model_copy(update={"init": None}) if begun else job.spec  # its own are read
    first = initial.first_weights(spec)
    made = backend.compile(
        job.spec.model,
        first.weights,
        device=place.device,
        dtype=job.spec.train.dtype,
        memory=place.memory,
    )
    ranks = backend.ranks()
    check_together(ranks, job.spec)
    facts = session_facts(job, backend, made, first.notes, ranks)
    total = job.spec.train.total_steps(len(data.train))
    return Ready(backend.name, made, data, facts, total, ranks)


def train_in(
    folder: RunFolder, spec: RunSpec, given: Ready, hooks: Hooks, stop_after: int | None = None
) -> dict[str, Any] | None:
    """Train a run in its folder, which must be entered; see `fwt.fwcore.training.loop.train`."""
    with Session(folder, given.facts) as log:
        result = train(given.model, spec, given.data, folder, hooks, stop_after, given.ranks)
        log.reason = DONE if result else f"stopped after {stop_after} updates"
    return result


def follow(job: Job, path: Path, given: Ready, stop_after: int | None) -> None:
    """Take part in a run that another process writes down and tells of."""
    folder = job.folder or RunFolder(path)
    with StopFlag() as stop:
        hooks = Hooks(stop_signal=stop.read)
        train(given.model, job.spec, given.data, folder, hooks, stop_after, given.ranks)


def run(
    job: Job, place: Place, out: Path | None, root: Path, stop_after: int | None, quiet: bool
) -> dict[str, Any] | None:
    """Train and return what is to be printed; None on a process that another one speaks for.

    A run that is done gives its result again, unless it is to be longer.

    Args:
        out: the folder of a new run; None names one under `root`.
        stop_after: see `fwt.fwcore.training.loop.train`.
        quiet: show no progress.
    """
    done = None if job.folder is None or job.new_length else job.folder.read_json("DONE")
    if job.folder is not None and done is not None:
        settle(job.folder)
        if (part := launcher.follower()) is None:
            return summary(job, job.folder, _last_session(job.folder), {"done": True, **done})
        if not quiet:
            first = f"process 0 of {part.count} prints the result, this is process {part.number}"
            print(f"{first} ({part.told})", file=sys.stderr)
        return None
    given = ready(job, place)
    path = out or default_path(root, job.spec, job.name, given.backend)
    if given.ranks.number:
        follow(job, path, given, stop_after)
        return None
    folder = job.folder or RunFolder.create(path, job.spec)
    shown = Screen(given.total, quiet, folder.latest_step() or 0)
    warn_of_threads(folder, given.facts)
    with folder, StopFlag() as stop, shown as screen:
        show_notes(given, quiet)
        if job.revision is not None:
            folder.revise(job.revision.before, job.spec, job.revision.step)
            if job.new_length and not quiet:
                print(_new_length(job, given.total, job.revision), file=sys.stderr, flush=True)
        hooks = Hooks(on_metrics=screen.show, stop_signal=stop.read)
        result = train_in(folder, job.spec, given, hooks, stop_after)
    stopped = {"done": False, "step": folder.latest_step(), "steps": given.total}
    return summary(job, folder, given.facts, {"done": True, **result} if result else stopped)


def show_notes(given: Ready, quiet: bool) -> None:
    """What a person is told of changes in the weights that runs begin with."""
    for note in given.facts.get("init", {}).get("notes", ()):
        if not quiet:
            print(f"weights   {note}", file=sys.stderr, flush=True)


def warn_of_threads(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Say on stderr that a run goes on with another number of threads: their sums differ."""
    before, now = _last_session(folder).get("threads"), facts.get("threads")
    if None not in (before, now) and before != now:
        print(
            f"threads   {before} -> {now}: weights from here on are not bit for bit those of "
            f"{before}; for the same: OMP_NUM_THREADS={before}",
            file=sys.stderr,
            flush=True,
        )


def _new_length(job: Job, total: int, revision: Revision) -> str:
    """What a person is told of a run's new length, and of what it means for the schedule."""
    before = revision.before.train.total_steps(len(job.task.split("train")))
    text = f"length    {before} -> {total} updates"
    if job.spec.train.schedule == "constant":
        return text
    return f"{text}; learning rates after update {revision.step} are those of a run of {total}"


def published(job: Job) -> float | None:
    """The published test error (percent) of this task, model and size, where there is one."""
    return job.task.published.get(job.name, {}).get(job.spec.model.core.size)


def summary(
    job: Job, folder: RunFolder, session: Mapping[str, Any], outcome: Mapping[str, Any]
) -> dict[str, Any]:
    """What `fwt train --json` prints; the same keys for a run that was done before."""
    return {
        "run": str(folder.path),
        "model": job.name,
        "dataset": job.task.dataset,
        "checkpoint": str(folder.latest() or ""),
        "best_checkpoint": str(folder.best() or ""),
        **{key: session.get(key) for key in ("backend", "device", "dtype", "memory")},
        **outcome,
    }


def _sessions(folder: RunFolder) -> list[dict[str, Any]]:
    """The sessions in `run.json`, oldest first; [] where there is no such file."""
    return folder.sessions()


def _last_session(folder: RunFolder) -> dict[str, Any]:
    return dict((_sessions(folder) or [{}])[-1])


class Session:
    """One process's part of a run in `run.json`: what it ran on, and how it ended."""

    def __init__(self, folder: RunFolder, facts: dict[str, Any]) -> None:
        self._folder, self._facts = folder, facts
        self.reason = "unknown"
        self._earlier: list[Any] = []

    def __enter__(self) -> Session:
        gone = {"exit": self._folder.silent_end()}  # of who did not say: this one has the lock now
        self._earlier = [
            {**each, **gone} if each.get("exit") == RUNNING else each
            for each in _sessions(self._folder)
        ]
        self._write(RUNNING)
        return self

    def _write(self, reason: str) -> None:
        entry = {**self._facts, "exit": reason}
        self._folder.write_json("run.json", {"sessions": [*self._earlier, entry]})

    def failed(self, error: BaseException) -> None:
        """Note what ended the session."""
        code = f" (exit {error.exit_code})" if isinstance(error, FwtError) else ""
        self.reason = f"{type(error).__name__}{code}: {error}"

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(error)
        self._facts["ended"] = environment.now()
        try:
            self._write(self.reason)
        except FileError:
            if error is None:
                raise  # else what stopped the run (a full disk, say) is the news


def settle(folder: RunFolder) -> None:
    """Note the end of a run that is done where the process was killed before it could.

    Raises:
        ConfigError: that process is still at it.
        FileError: it cannot be written.
    """
    if _last_session(folder).get("exit") != RUNNING or launcher.follower() is not None:
        return
    with folder:
        *earlier, last = _sessions(folder)
        folder.write_json("run.json", {"sessions": [*earlier, {**last, "exit": DONE}]})


def print_result(job: Job, result: dict[str, Any], as_json: bool) -> None:
    """The result on stdout: for people, or one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    if not result["done"]:
        print(f"stopped   step {result['step']} of {result['steps']}")
        print(f"go on     fwt train --resume {quote(result['run'])}")
        return
    known = published(job)
    beside = "" if known is None else f"  (published: {known:.2f}%)"
    test = result["test"]
    print(f"dataset   {job.task.dataset}")
    print(f"test      error {test['error_pct']:.2f}% of {test['examples']}{beside}")
    print(f"took      {result['steps']} updates, {result['train_s']:.0f} s")
    print(f"run       {show(result['run'])}")
    print(f"best      {show(result['best_checkpoint'])}")
    print(f"look      fwt eval {quote(result['run'])} --backend numpy")
