"""Jobs on a Dask cluster: reused where finished, retried where a worker died, stopped by a signal.

A batch of jobs is one task. The cluster is that of this process, or one that exists.
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
from contextlib import ExitStack
from typing import Any, Protocol, Self

import dask
from distributed import Client, Future, LocalCluster

from fwcore.errors import BackendError, Interrupted
from sweeps import worker
from sweeps.jobs import Ended, Job, Outcome, Work, finished

TICK = 0.25  # seconds between two looks at the stop flag
ASK = 1.0  # seconds between two requests to stop; a process may have started in between
CONNECT = "10s"  # how long an existing scheduler may take to answer


class Watch(Protocol):
    """Who is told what goes on, and may stop it."""

    def opened(self, text: str) -> None:
        """The cluster is there; `text` says where, and where to look at it."""
        ...

    def told(self, jobs: Sequence[Job], line: dict[str, Any]) -> None:
        """A line of metrics of a batch; one with an empty `split` says that it was begun."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A job ended."""
        ...

    def stop(self) -> int | None:
        """The number of a signal that asks to stop, or None; asked several times a second."""
        ...


class Engine:
    """A cluster and the batches it is given; a context manager.

    The cluster starts with the first batch that has anything to run.

    Args:
        work: what trains a batch; a function that workers can import.
        scheduler: the address of a scheduler that exists; None starts processes here.
        workers: how many processes are started here.
        threads_per_worker: threads of each for its arithmetic. It trains one batch at a time.
        retries: how often a batch is tried again when its worker died or an error came that is
            none of the product's own; on an existing cluster the scheduler's `allowed-failures`
            decides about workers that died.
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
    ) -> None:
        self._work, self._scheduler, self._watch = work, scheduler, watch
        self._workers, self._threads, self._retries = workers, threads_per_worker, retries
        self._token = f"fwt-{uuid.uuid4().hex}"
        self._stack = ExitStack()
        self._client: Client | None = None
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()  # futures and events, as they come
        self._ready: list[Outcome] = []
        self._running: dict[str, tuple[Future[Any], Sequence[Job]]] = {}
        self._attempts: dict[str, int] = {}
        self._waiting: deque[Sequence[Job]] = deque()

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
                self._waiting.append(left)
        self._fill()

    def _fill(self) -> None:
        """Give every worker a batch, and no second one: it might wait there beside an idle one."""
        if not self._waiting:
            return
        client = self._client or self._open()
        room = max(1, sum(client.nthreads().values())) - len(self._running)
        for _ in range(min(room, len(self._waiting))):
            self._begin(client, self._waiting.popleft())

    def _begin(self, client: Client, jobs: Sequence[Job]) -> None:
        key = f"{jobs[0].folder.name}-{uuid.uuid4().hex}"
        self._attempts[key] = 0
        future = client.submit(
            worker.perform,
            self._work,
            jobs,
            self._token,
            key,
            key=key,
            pure=False,
            retries=self._retries,
        )
        self._running[key] = future, jobs
        future.add_done_callback(self._news.put)

    def outcomes(self) -> Iterator[Outcome]:
        """How the jobs end, in the order in which they do; more may be submitted meanwhile.

        Raises:
            Interrupted: the watch asked to stop; what ran was saved.
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
            future, jobs = self._running.pop(found.key)
            attempts = max(1, self._attempts[found.key])
            given = zip(jobs, _ended(future, jobs), strict=True)
            self._ready += [Outcome(job, *how, attempts, reused=False) for job, how in given]
            self._fill()

    def _tell(self, line: dict[str, Any]) -> None:
        key = line.pop("key")
        if key in self._running:
            self._attempts[key] += not line["split"]
            self._watch.told(self._running[key][1], line)

    def _open(self) -> Client:
        """Start or join the cluster."""
        self._client = client = self._join() if self._scheduler else self._start()
        client.subscribe_topic(self._token, lambda event: self._news.put(event[1]))
        info = client.scheduler_info(n_workers=-1)
        shown = importlib.util.find_spec("bokeh") is not None
        where = client.dashboard_link if shown else "none; pip install bokeh"
        self._watch.opened(f"{info['address']}, {len(info['workers'])} workers; dashboard {where}")
        return client

    def _join(self) -> Client:
        try:
            client: Client = self._stack.enter_context(Client(self._scheduler, timeout=CONNECT))
        except (OSError, ValueError) as error:
            raise BackendError(
                f"--scheduler: expected a Dask scheduler at {self._scheduler!r}, got none: {error}"
            ) from error
        return client

    def _start(self) -> Client:
        """Processes of this machine, with their threads bounded before a framework is imported."""
        threads = dict.fromkeys(THREADS, str(self._threads))
        settings = {
            "distributed.scheduler.allowed-failures": self._retries,
            "distributed.nanny.pre-spawn-environ": {},  # it would be set in this process too
        }
        enter = self._stack.enter_context
        enter(dask.config.set(settings))
        folder = enter(tempfile.TemporaryDirectory(prefix="fwt-dask-", ignore_cleanup_errors=True))
        cluster = LocalCluster(
            n_workers=self._workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            memory_limit=0,  # `fwcore.estimate` looks at memory before a run begins
            local_directory=folder,
            env=threads,
            preload=["sweeps.worker"],
        )
        client: Client = enter(Client(enter(cluster)))
        return client

    def _stop_if_asked(self) -> None:
        number = self._watch.stop()
        if number is None:
            return
        begun = {key for key, count in self._attempts.items() if count and key in self._running}
        if self._client is not None:
            others = [future for key, (future, _) in self._running.items() if key not in begun]
            self._client.cancel(others)
            self._await(self._client, begun, number)
        raise Interrupted(
            f"stopped by signal {number}; what ran was saved; the same command goes on", number
        )

    def _await(self, client: Client, begun: set[str], number: int) -> None:
        """Wait until the batches that have begun are saved, or no worker is left."""
        futures = [self._running[key][0] for key in begun]
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


def _ended(future: Future[Any], jobs: Sequence[Job]) -> Sequence[Ended]:
    """What a batch came to."""
    if future.cancelled():
        return [Ended(None, "the scheduler was lost, or dropped it")] * len(jobs)
    error = future.exception()
    if error is None:
        found: Sequence[Ended] = future.result()
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
