"""A run as a job of a cluster: what it is, how it ended, and whether it has ended already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fwt.fwcore.errors import ConfigError, DivergedError, FwtError, Interrupted, InUseError
from fwt.fwcore.frozen import differences
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.loop import Hooks

# fields of a spec that change neither what is learned nor which step is the best
REPORTS = ("log_every", "save_every", "keep")
DIVERGED = DivergedError.__name__  # what the failure of a run that diverged begins with
BEGIN, WAIT = "", "wait"  # the split of a line that says that a batch begins, or waits
TICK = 0.5  # seconds between two looks whether another process still has a run


@dataclass(frozen=True)
class Job:
    """A run to be trained, or gone on with.

    Attributes:
        spec: the run.
        backend: a name of `fwt.backends.BACKENDS`.
        device, memory: see `fwt.backends.contract.Backend.compile`; not part of what a run is.
        folder: the run's folder; every worker must see it under this path.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.
    """

    spec: RunSpec
    backend: str
    device: str
    memory: str
    folder: Path
    data_dir: Path | None


class Ended(NamedTuple):
    """How a run ended: the content of its DONE, or what stopped it, worded as in `run.json`."""

    summary: dict[str, Any] | None
    failure: str | None

    @classmethod
    def by(cls, error: FwtError) -> Ended:
        """Ended by an error of the product's own."""
        return cls(None, f"{type(error).__name__} (exit {error.exit_code}): {error}")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: the job.
        summary: the content of the run's DONE; None if it has none.
        failure: the message of what stopped it; None if it is done.
        attempts: how often it was begun; 0 if it was not run.
        reused: whether it had ended before.
    """

    job: Job
    summary: dict[str, Any] | None
    failure: str | None
    attempts: int
    reused: bool


# Trains jobs of one batch and says how each ended; imported by its name on a worker.
Work = Callable[[Sequence[Job], Hooks], Sequence[Ended]]


def carry_out(
    work: Work, jobs: Sequence[Job], hooks: Hooks, wait: Callable[[], None]
) -> list[Ended]:
    """Do the work of a batch; while another process has a run of it, wait for that process.

    The run goes on where that process left it, or is not trained again if it was ended there.

    Args:
        work: what trains the batch.
        jobs: the batch.
        hooks: of the training; asked whether to stop while waiting too.
        wait: told when the wait begins.

    Returns:
        How each job ended.

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
            return [Ended.by(error)] * len(jobs)


def finished(job: Job) -> Ended | None:
    """How the run in a job's folder ended, or None if it has not.

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
        return Ended(done, None)
    last = str(sessions[-1].get("exit", "")) if sessions else ""
    return Ended(None, last) if last.startswith(DIVERGED) else None


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
    data["report"] = {key: data["report"][key] for key in data["report"] if key not in REPORTS}
    return data
