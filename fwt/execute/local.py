"""The executor that is this process, and the choice between it and a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Self

from fwt.execute import batch
from fwt.execute.batch import Work, carry_out
from fwt.execute.executor import BEGIN, WAIT, Cluster, Executor, Watch
from fwt.fwcore.errors import BackendError, Interrupted
from fwt.fwcore.training.group import Hooks
from fwt.jobs import Job, Outcome, last_outcome


class Local:
    """Batches one after another in this process, without Dask."""

    def __init__(self, watch: Watch, work: Work) -> None:
        self._watch, self._work = watch, work
        self._batches: deque[Sequence[Job]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, batches: Iterable[Sequence[Job]]) -> None:
        """Take batches."""
        self._batches.extend(batches)

    def outcomes(self) -> Iterator[Outcome]:
        """What comes of the jobs, batch after batch."""
        while self._batches:
            jobs = self._batches.popleft()
            ends = {job.folder: last_outcome(job) for job in jobs}
            left = [job for job in jobs if ends[job.folder] is None]
            ends |= {outcome.job.folder: outcome for outcome in self._carry_out(left)}
            for outcome in filter(None, ends.values()):
                self._watch.ended(outcome)
                yield outcome

    def _carry_out(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        if not jobs:
            return []
        if (number := self._watch.stop()) is not None:
            raise Interrupted(f"stopped by signal {number}; the same command goes on", number)

        def report(line: dict[str, Any]) -> None:
            if line["split"] != "test":
                self._watch.report(jobs, line)

        def wait() -> None:
            self._watch.report(jobs, {"split": WAIT, "step": 0})

        self._watch.report(jobs, {"split": BEGIN, "step": 0})
        hooks = Hooks(on_metrics=report, stop_signal=self._watch.stop)
        return carry_out(self._work, jobs, hooks, wait)


def executor_for(cluster: Cluster, workers: int, watch: Watch, verb: str) -> Executor:
    """The executor for so many workers: one without a scheduler is this process.

    Args:
        cluster: where the runs go.
        workers: how many processes.
        watch: who is told.
        verb: the beginning of an error.

    Raises:
        BackendError: Dask is needed and not installed.
    """
    if workers == 1 and cluster.scheduler is None:
        return Local(watch, batch.work)
    if find_spec("distributed") is None:
        raise BackendError(
            f"{verb}: package distributed is not installed; pip install 'fwt[sweep]', or "
            "use --workers 1"
        )
    from fwt.execute.cluster import Dask

    return Dask(cluster, workers, watch, batch.work)
