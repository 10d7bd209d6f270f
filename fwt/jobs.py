"""A run that is to be done, and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwt.fwcore import errors
from fwt.fwcore.errors import ConfigError, DivergedError, FwtError
from fwt.fwcore.frozen import differences
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.settings import name_of
from fwt.tasks.base import Task

# fields of a spec that change neither what is learned nor which step is the best
REPORTS = ("log_every", "save_every", "keep")
FAILURE = re.compile(r"(\w+)(?: \(exit \d+\))?: ")  # the beginning of one in `run.json`


@dataclass(frozen=True)
class Revision:
    """A change of a run's length or reports that its folder does not have yet.

    Attributes:
        before: the spec in the folder.
        step: the step of its last checkpoint.
    """

    before: RunSpec
    step: int


@dataclass(frozen=True)
class Job:
    """A run to be trained, or gone on with.

    Attributes:
        spec: the run.
        backend: a name of `fwt.backends.BACKENDS`.
        folder: the run's folder; every worker of a cluster must see it under this path.
        device, memory: see `fwt.backends.contract.Backend.compile`; not part of what a run is.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.
        label: what sets it apart from the runs beside it, such as `lr=0.001 seed=3`.
        revision: how the spec differs from that in the folder; None if it does not.
        task: the task with its data, where this process has it at hand.
    """

    spec: RunSpec
    backend: str
    folder: Path
    device: str = "auto"
    memory: str = "auto"
    data_dir: Path | None = None
    label: str = ""
    revision: Revision | None = None
    task: Task | None = field(default=None, compare=False, repr=False)

    @property
    def model(self) -> str:
        """The model's name on the command line."""
        return name_of(self.spec.model.core.json_data())

    @property
    def published_error(self) -> float | None:
        """The published test error (percent) of this task, model and size, where there is one."""
        if self.task is None:
            return None
        return self.task.published.get(self.model, {}).get(self.spec.model.core.size)

    @property
    def new_length(self) -> bool:
        """Whether the run is to have another length than its folder says."""
        return self.revision is not None and self.revision.before.train != self.spec.train


@dataclass(frozen=True)
class Failure:
    """What stopped a run.

    Attributes:
        kind: the class of the error; `Exception` for what is none of fwt's own.
        text: as `run.json` has it: `DivergedError (exit 5): train: ...`.
    """

    kind: type[Exception]
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an error is."""
        if isinstance(error, FwtError):
            name = type(error).__name__
            return cls(type(error), f"{name} (exit {error.exit_code}): {error}")
        return cls(Exception, f"{type(error).__name__}: {error}")

    @classmethod
    def read(cls, text: str) -> Failure:
        """The failure that a line of `run.json` tells of."""
        match = FAILURE.match(text)
        kind = getattr(errors, match[1], None) if match else None
        if isinstance(kind, type) and issubclass(kind, FwtError):
            return cls(kind, text)
        return cls(Exception, text)

    @property
    def message(self) -> str:
        """The error's own words."""
        return FAILURE.sub("", self.text, count=1)

    @property
    def diverged(self) -> bool:
        """Whether the run diverged, which it would do again."""
        return issubclass(self.kind, DivergedError)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        job: the job.
        result: the content of the run's DONE; None if it has none.
        failure: what stopped it; None if it is done, or was stopped where it can go on.
        attempts: how often it was begun; 0 if it was not run.
    """

    job: Job
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    attempts: int = 1

    @property
    def reused(self) -> bool:
        """Whether it had ended before."""
        return self.attempts == 0

    @property
    def diverged(self) -> bool:
        """Whether it ended by diverging."""
        return self.failure is not None and self.failure.diverged


def last_outcome(job: Job) -> Outcome | None:
    """What came of the run in a job's folder, or None if it has not ended.

    A run that diverged has ended: it would do so again.

    Raises:
        ConfigError: the folder holds another run, or one of another backend.
        CheckpointError: a file of the folder is damaged.
    """
    if not (job.folder / "spec.json").is_file():
        return None
    folder = RunFolder.open(job.folder)
    _check_same(folder.read_spec(), job)
    sessions = folder.sessions()
    others = {each.get("backend") for each in sessions} - {job.backend}
    if others:
        raise ConfigError(
            f"{job.folder}: expected a run of backend {job.backend!r}, got one that was trained on "
            f"{', '.join(map(str, others))}; move it away or take another --runs-dir"
        )
    done = folder.read_json("DONE")
    if done is not None:
        return Outcome(job, done, attempts=0)
    last = Failure.read(str(sessions[-1].get("exit", "")) if sessions else "")
    return Outcome(job, failure=last, attempts=0) if last.diverged else None


def _check_same(have: RunSpec, job: Job) -> None:
    faults = differences(_learned(have), _learned(job.spec))
    if faults:
        raise ConfigError(
            f"{job.folder}: holds another run: {'; '.join(faults)}; move it away or take another "
            "--runs-dir"
        )


def _learned(spec: RunSpec) -> dict[str, Any]:
    """What must agree for two runs to be the same."""
    data = spec.json_data()
    del data["recipe"]
    report = spec.report.json_data()
    data["report"] = {key: report[key] for key in report if key not in REPORTS}
    return data
