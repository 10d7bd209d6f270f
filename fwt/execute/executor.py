"""What carries out batches of jobs, and who watches it: one protocol for all executors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from fwt.jobs import Job, Outcome

BEGIN, WAIT = "", "wait"  # the split of a line that says that a batch begins, or waits


@dataclass(frozen=True)
class Cluster:
    """Where the runs go.

    Attributes:
        scheduler: the address of a Dask scheduler; None starts processes here.
        workers: how many; None as many as fit.
        threads: of each for its arithmetic.
        retries: how often a batch is tried again when its worker died, an error came that is none
            of the product's own, or its scheduler was lost.
        reconnect: seconds within which a scheduler that was lost must be back.
    """

    scheduler: str | None
    workers: int | None
    threads: int
    retries: int
    reconnect: float


class Watch(Protocol):
    """Who is told what goes on, and may stop it."""

    def opened(self, text: str) -> None:
        """The cluster is there; `text` says where, and where to look at it."""
        ...

    def lost(self, text: str) -> None:
        """The scheduler was lost; `text` says which, and how long it is waited for."""
        ...

    def report(self, jobs: Sequence[Job], line: dict[str, Any]) -> None:
        """A line of metrics of a batch; its `split` may be `BEGIN` or `WAIT`."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A job ended."""
        ...

    def stop(self) -> int | None:
        """The number of a signal that asks to stop, or None; asked several times a second."""
        ...


class Executor(Protocol):
    """Carries out batches of jobs; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, batches: Iterable[Sequence[Job]]) -> None:
        """Take batches; the jobs of them that have ended before are not run.

        Raises:
            ConfigError: a job's folder holds another run; nothing is begun.
            BackendError: the scheduler does not answer.
        """
        ...

    def outcomes(self) -> Iterator[Outcome]:
        """What comes of the jobs, in the order of their ends; more may be submitted meanwhile.

        Raises:
            Interrupted: the watch asked to stop; what ran was saved.
            BackendError: the scheduler was lost, and was not back in time.
        """
        ...
