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
from dataclasses import dataclass, replace
from typing import Any, Self

from dask import config
from distributed import Client, Future, LocalCluster

from fwt.execute import worker
from fwt.execute.batch import Work
from fwt.execute.executor import BEGIN, Cluster, Watch
from fwt.fwcore.errors import BackendError, Interrupted
from fwt.fwcore.storage.descriptors import room_for
from fwt.jobs import Failure, Job, Outcome, last_outcome

TICK = 0.25  # seconds between two looks at the stop flag
ASK = 1.0  # seconds between two requests to stop; a process may have started in between
CONNECT = 10.0  # seconds that an existing scheduler may take to answer
FILES = 12  # that this process has open for each process that it starts
TRY = 2.0  # of them for one attempt; between two, signals are looked at
LOST = Failure(Exception, "the scheduler was lost, or dropped it")  # of what is not tried again


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


class Dask:
    """An executor on a Dask cluster, which starts with the first batch that has anything to run.

    A worker trains one batch at a time.

    Args:
        cluster: where the runs go; on an existing cluster the scheduler's `allowed-failures`
            decides about workers that died.
        workers: how many processes are started here.
        watch: who is told.
        work: what trains a batch; a function that workers can import.
    """

    def __init__(self, cluster: Cluster, workers: int, watch: Watch, work: Work) -> None:
        self._cluster, self._workers, self._watch, self._work = cluster, workers, watch, work
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
        for batch in batches:
            left = []
            for job in batch:
                outcome = last_outcome(job)
                if outcome is None:
                    left.append(job)
                else:
                    self._ready.append(outcome)
            if left:
                self._waiting.append(_Batch(left))
        self._fill()

    def _fill(self) -> None:
        """Give every worker a batch, and no second one: it might wait there beside an idle one."""
        if not self._waiting:
            return
        client = self._client or self._open(CONNECT)
        try:
            nthreads: Any = client.nthreads()  # of a client that is not asynchronous
            threads = sum(nthreads.values())
        except OSError:
            if self._cluster.scheduler is None:
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
            retries=self._cluster.retries,
        )
        self._running[key] = future, batch
        future.add_done_callback(self._news.put)

    def outcomes(self) -> Iterator[Outcome]:
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
            self._report(found)
        elif found.key in self._running:
            future, batch = self._running[found.key]
            outcomes = _outcomes(future, batch.jobs)
            if outcomes is None and self._cluster.scheduler is not None:
                self._rejoin()
                return
            del self._running[found.key]
            lost = [Outcome(job, failure=LOST) for job in batch.jobs]
            attempts = max(1, batch.attempts)
            self._ready += [replace(each, attempts=attempts) for each in outcomes or lost]
            self._fill()

    def _report(self, line: dict[str, Any]) -> None:
        key = line.pop("key")
        if key in self._running:
            batch = self._running[key][1]
            if line["split"] == BEGIN:
                batch.attempts, batch.begun = batch.attempts + 1, True
            self._watch.report(batch.jobs, line)

    def _rejoin(self) -> None:
        """Wait for a scheduler that was lost, or dropped what ran; give it all of that again.

        Its workers save what runs when they lose it: see `fwt.execute.worker`.
        """
        lost, self._client = self._client, None
        self._take_back()
        if lost is not None:
            with suppress(OSError):
                lost.close()
        address, patience = self._cluster.scheduler, self._cluster.reconnect
        self._watch.lost(f"{address}; waiting for it, at most {patience:g} s")
        limit = time.monotonic() + patience
        while self._client is None:
            self._stop_if_asked()
            try:
                self._open(TRY)
            except BackendError as error:
                if time.monotonic() > limit:
                    raise BackendError(
                        f"--scheduler: expected the lost one at {address!r} back within "
                        f"{patience:g} s, got none; its workers save what runs when they "
                        "lose it; start it and them again, and the same command goes on"
                    ) from error
        self._fill()

    def _take_back(self) -> None:
        """What ran is to be begun again, but what ended without being told."""
        for _, batch in reversed(self._running.values()):
            batch.losses += 1
            left = []
            for job in batch.jobs:
                outcome = last_outcome(job)
                if outcome is None and batch.losses > self._cluster.retries:
                    outcome = Outcome(job, failure=LOST)
                if outcome is None:
                    left.append(job)
                else:
                    self._ready.append(replace(outcome, attempts=max(1, batch.attempts)))
            if left:
                batch.jobs = left
                self._waiting.appendleft(batch)
        self._running.clear()

    def _open(self, timeout: float) -> Client:
        """Start or join the cluster. Raises BackendError if there is none to join."""
        client = self._join(timeout) if self._cluster.scheduler else self._start()
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
            client: Client = self._stack.enter_context(
                Client(self._cluster.scheduler, timeout=timeout)
            )
        except (OSError, ValueError) as error:
            raise self._missing(error) from error
        return client

    def _missing(self, error: Exception) -> BackendError:
        return BackendError(
            f"--scheduler: expected a Dask scheduler at {self._cluster.scheduler!r}, "
            f"got none: {error}"
        )

    def _start(self) -> Client:
        """Processes of this machine, with their threads bounded before a framework is imported.

        Raises:
            ConfigError: more files would be open than the system allows.
        """
        threads = dict.fromkeys(THREADS, str(self._cluster.threads))
        settings = {
            "distributed.scheduler.allowed-failures": self._cluster.retries,
            "distributed.nanny.pre-spawn-environ": {},  # it would be set in this process too
        }
        enter = self._stack.enter_context
        enter(room_for(FILES * self._workers, f"--workers: {self._workers} processes"))
        enter(config.set(settings))
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


def _outcomes(future: Future[Any], jobs: Sequence[Job]) -> Sequence[Outcome] | None:
    """What came of a batch; None if the scheduler was lost, or dropped it."""
    if future.cancelled():
        return None
    error = future.exception()
    if error is None:
        try:
            outcomes: Sequence[Outcome] = future.result()
        except (CancelledError, OSError):  # lost while the result was on its way
            return None
        return outcomes
    lines = str(error).strip().splitlines() or [""]
    failure = Failure(Exception, f"{type(error).__name__}: {lines[0]}")
    return [Outcome(job, failure=failure) for job in jobs]
