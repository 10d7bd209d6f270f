"""Jobs on a Dask cluster: reused where finished, retried where a worker died, stopped by a signal.

A batch of jobs is one task. The cluster is that of this process, or one that exists; if the
scheduler of that one is lost, it is waited for, and what has not ended is given to it again.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

import dask
from distributed import Client, Future, LocalCluster

from fwt.execute import worker
from fwt.fwcore.errors import BackendError, Interrupted
from fwt.fwcore.storage.descriptors import room_for
from fwt.jobs import BEGIN, Ended, Job, Outcome, Work, finished

TICK = 0.25  # seconds between two looks at the stop flag
ASK = 1.0  # seconds between two requests to stop; a process may have started in between
CONNECT = 10.0  # seconds that an existing scheduler may take to answer
PATIENCE = 60.0  # seconds within which one that was lost must be back
FILES = 12  # that this process has open for each process that it starts
TRY = 2.0  # of them for one attempt; between two, signals are looked at
LOST = Ended(None, "the scheduler was lost, or dropped it")  # of what is not tried again


class Watch(Protocol):
    """Who is told what goes on, and may stop it."""

    def opened(self, text: str) -> None:
        """The cluster is there; `text` says where, and where to look at it."""
        ...

    def lost(self, text: str) -> None:
        """The scheduler was lost; `text` says which, and how long it is waited for."""
        ...

    def told(self, jobs: Sequence[Job], line: dict[str, Any]) -> None:
        """A line of metrics of a batch; its `split` may be `BEGIN` or `WAIT` of `jobs`."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A job ended."""
        ...

    def stop(self) -> int | None:
        """The number of a signal that asks to stop, or None; asked several times a second."""
        ...


@dataclass
class _Batch:
    """Jobs that are one task.

    Attributes:
        jobs: those of them that have not ended.
        attempts: how often they were begun.
        losses: how often a scheduler lost them.
        begun: whether the present attempt has been begun.
    """

    jobs: Sequence[Job]
    attempts: int = 0
    losses: int = 0
    begun: bool = False


class Engine:
    """A cluster and the batches it is given; a context manager.

    The cluster starts with the first batch that has anything to run.

    Args:
        work: what trains a batch; a function that workers can import.
        scheduler: the address of a scheduler that exists; None starts processes here.
        workers: how many processes are started here.
        threads_per_worker: threads of each for its arithmetic. It trains one batch at a time.
        retries: how often a batch is tried again when its worker died or an error came that is
            none of the product's own, or when its scheduler was lost; on an existing cluster the
            scheduler's `allowed-failures` decides about workers that died.
        patience: seconds within which a scheduler that was lost must be back.
        watch: see its class.
    """

    def __init__(
        self,
        work: Work,
        *,
        scheduler: str | None,
        workers: int,
        threads_per_worker: int,
        retries: int,
        watch: Watch,
        patience: float = PATIENCE,
    ) -> None:
        self._work, self._scheduler, self._watch = work, scheduler, watch
        self._workers, self._threads, self._retries = workers, threads_per_worker, retries
        self._patience = patience
        self._token = f"fwt-{uuid.uuid4().hex}"
        self._stack = ExitStack()
        self._client: Client | None = None
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()  # futures and events, as they come
        self._ready: list[Outcome] = []
        self._running: dict[str, tuple[Future[Any], _Batch]] = {}
        self._waiting: deque[_Batch] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def submit(self, batches: Iterable[Sequence[Job]]) -> None:
        """Take batches; the jobs of them that have ended before are not run.

        Raises:
            ConfigError: a job's folder holds another run; nothing is begun.
            BackendError: the scheduler does not answer.
        """
        for batch in batches:
            left = []
            for job in batch:
                ended = finished(job)
                if ended is None:
                    left.append(job)
                else:
                    self._ready.append(Outcome(job, *ended, attempts=0, reused=True))
            if left:
                self._waiting.append(_Batch(left))
        self._fill()

    def _fill(self) -> None:
        """Give every worker a batch, and no second one: it might wait there beside an idle one."""
        if not self._waiting:
            return
        client = self._client or self._open(CONNECT)
        try:
            threads = sum(client.nthreads().values())
        except OSError:
            if self._scheduler is None:
                raise
            self._rejoin()
            return
        room = max(1, threads) - len(self._running)
        for _ in range(min(room, len(self._waiting))):
            self._begin(client, self._waiting.popleft())

    def _begin(self, client: Client, batch: _Batch) -> None:
        batch.begun = False
        key = f"{batch.jobs[0].folder.name}-{uuid.uuid4().hex}"
        future = client.submit(
            worker.perform,
            self._work,
            batch.jobs,
            self._token,
            key,
            key=key,
            pure=False,
            retries=self._retries,
        )
        self._running[key] = future, batch
        future.add_done_callback(self._news.put)

    def outcomes(self) -> Iterator[Outcome]:
        """How the jobs end, in the order in which they do; more may be submitted meanwhile.

        Raises:
            Interrupted: the watch asked to stop; what ran was saved.
            BackendError: the scheduler was lost, and was not back in time.
        """
        while self._ready or self._running or self._waiting:
            self._stop_if_asked()
            while self._ready:
                outcome = self._ready.pop(0)
                self._watch.ended(outcome)
                yield outcome
            if self._running:
                self._take_news()

    def _take_news(self) -> None:
        """Wait a moment for an event or the end of a batch; a worker that has come gets one."""
        try:
            found = self._news.get(timeout=TICK)
        except queue.Empty:
            self._fill()
            return
        if not isinstance(found, Future):
            self._tell(found)
        elif found.key in self._running:
            future, batch = self._running[found.key]
            ended = _ended(future, batch.jobs)
            if ended is None and self._scheduler is not None:
                self._rejoin()
                return
            del self._running[found.key]
            for job, how in zip(batch.jobs, ended or [LOST] * len(batch.jobs), strict=True):
                self._ready.append(Outcome(job, *how, max(1, batch.attempts), reused=False))
            self._fill()

    def _tell(self, line: dict[str, Any]) -> None:
        key = line.pop("key")
        if key in self._running:
            batch = self._running[key][1]
            if line["split"] == BEGIN:
                batch.attempts, batch.begun = batch.attempts + 1, True
            self._watch.told(batch.jobs, line)

    def _rejoin(self) -> None:
        """Wait for a scheduler that was lost, or dropped what ran; give it all of that again.

        Its workers save what runs when they lose it: see `fwt.execute.worker`.
        """
        lost, self._client = self._client, None
        self._take_back()
        if lost is not None:
            with suppress(OSError):
                lost.close()
        self._watch.lost(f"{self._scheduler}; waiting for it, at most {self._patience:g} s")
        limit = time.monotonic() + self._patience
        while self._client is None:
            self._stop_if_asked()
            try:
                self._open(TRY)
            except BackendError as error:
                if time.monotonic() > limit:
                    raise BackendError(
                        f"--scheduler: expected the lost one at {self._scheduler!r} back within "
                        f"{self._patience:g} s, got none; its workers save what runs when they "
                        "lose it; start it and them again, and the same command goes on"
                    ) from error
        self._fill()

    def _take_back(self) -> None:
        """What ran is to be begun again, but what ended without being told."""
        for _, batch in reversed(self._running.values()):
            batch.losses += 1
            left = []
            for job in batch.jobs:
                ended = finished(job)
                if ended is None and batch.losses > self._retries:
                    ended = LOST
                if ended is None:
                    left.append(job)
                else:
                    attempts = max(1, batch.attempts)
                    self._ready.append(Outcome(job, *ended, attempts, reused=False))
            if left:
                batch.jobs = left
                self._waiting.appendleft(batch)
        self._running.clear()

    def _open(self, timeout: float) -> Client:
        """Start or join the cluster. Raises BackendError if there is none to join."""
        client = self._join(timeout) if self._scheduler else self._start()
        client.subscribe_topic(self._token, lambda event: self._news.put(event[1]))
        try:
            info = client.scheduler_info(n_workers=-1)
        except OSError as error:
            raise self._missing(error) from error
        self._client = client
        shown = importlib.util.find_spec("bokeh") is not None
        where = client.dashboard_link if shown else "none; pip install bokeh"
        self._watch.opened(f"{info['address']}, {len(info['workers'])} workers; dashboard {where}")
        return client

    def _join(self, timeout: float) -> Client:
        # what becomes of the connection is told by the watch and by what is raised
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            client: Client = self._stack.enter_context(Client(self._scheduler, timeout=timeout))
        except (OSError, ValueError) as error:
            raise self._missing(error) from error
        return client

    def _missing(self, error: Exception) -> BackendError:
        return BackendError(
            f"--scheduler: expected a Dask scheduler at {self._scheduler!r}, got none: {error}"
        )

    def _start(self) -> Client:
        """Processes of this machine, with their threads bounded before a framework is imported.

        Raises:
            ConfigError: more files would be open than the system allows.
        """
        threads = dict.fromkeys(THREADS, str(self._threads))
        settings = {
            "distributed.scheduler.allowed-failures": self._retries,
            "distributed.nanny.pre-spawn-environ": {},  # it would be set in this process too
        }
        enter = self._stack.enter_context
        enter(room_for(FILES * self._workers, f"--workers: {self._workers} processes"))
        enter(dask.config.set(settings))
        folder = enter(tempfile.TemporaryDirectory(prefix="fwt-dask-", ignore_cleanup_errors=True))
        cluster = LocalCluster(
            n_workers=self._workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            memory_limit=0,  # `fwt.fwcore.analysis.estimate` looks at memory before a run begins
            local_directory=folder,
            env=threads,
            preload=["fwt.execute.worker"],
        )
        client: Client = enter(Client(enter(cluster)))
        return client

    def _stop_if_asked(self) -> None:
        number = self._watch.stop()
        if number is None:
            return
        if self._client is not None:
            begun = [future for future, batch in self._running.values() if batch.begun]
            others = [future for future, batch in self._running.values() if not batch.begun]
            with suppress(OSError):  # a scheduler that is lost: its workers save by themselves
                self._client.cancel(others)
                self._await(self._client, begun, number)
        raise Interrupted(
            f"stopped by signal {number}; what ran was saved; the same command goes on", number
        )

    def _await(self, client: Client, futures: Sequence[Future[Any]], number: int) -> None:
        """Wait until the batches that have begun are saved, or no worker is left."""
        asked = 0.0
        while not all(future.done() for future in futures):
            if time.monotonic() - asked > ASK:
                asked = time.monotonic()
                client.run(worker.stop, self._token, number, on_error="ignore")
                if not client.scheduler_info(n_workers=-1)["workers"]:
                    return
            time.sleep(TICK / 5)


# what bounds the threads of OpenMP, MKL, OpenBLAS and Accelerate
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _ended(future: Future[Any], jobs: Sequence[Job]) -> Sequence[Ended] | None:
    """What a batch came to; None if the scheduler was lost, or dropped it."""
    if future.cancelled():
        return None
    error = future.exception()
    if error is None:
        try:
            found: Sequence[Ended] = future.result()
        except (CancelledError, OSError):  # lost while the result was on its way
            return None
        return found
    lines = str(error).strip().splitlines() or [""]
    return [Ended(None, f"{type(error).__name__}: {lines[0]}")] * len(jobs)


def run_jobs(
    jobs: Iterable[Job],
    work: Work,
    *,
    scheduler: str | None,
    workers: int,
    threads_per_worker: int,
    retries: int,
    watch: Watch,
) -> list[Outcome]:
    """Train jobs, each as a batch of its own, and return how they ended in their order.

    See `Engine` for the arguments and `Engine.outcomes` for what is raised.
    """
    given = list(jobs)
    engine = Engine(
        work,
        scheduler=scheduler,
        workers=workers,
        threads_per_worker=threads_per_worker,
        retries=retries,
        watch=watch,
    )
    with engine:
        engine.submit([job] for job in given)
        found = {outcome.job.folder: outcome for outcome in engine.outcomes()}
    return [found[job.folder] for job in given]
