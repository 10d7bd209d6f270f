"""What happens in a process of the cluster: a batch of jobs, its progress, and how it is stopped.

Also a preload module of Dask (`dask_setup`), for the processes that this product starts itself.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from distributed import Reschedule, Status, Worker, get_worker

from fwt.execute.batch import Work, carry_out
from fwt.execute.executor import BEGIN, WAIT
from fwt.fwcore.errors import Interrupted
from fwt.fwcore.training.group import Hooks
from fwt.jobs import Job, Outcome

_stops: dict[str, int] = {}  # which sweeps were asked to stop, and by which signal

LEAVING = (Status.closing, Status.closed, Status.failed)
TOLD = ("step", "split", "loss", "error_pct")  # of a line of metrics


def dask_setup(worker: object) -> None:
    """Leave signals to the process that started the cluster: it asks all runs to stop, saved.

    A terminal sends Ctrl-C, and SIGHUP when it closes, to every process; batch systems send
    SIGTERM to every process.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def stop(token: str, number: int) -> None:
    """Ask this process's runs of a sweep to save and stop."""
    _stops[token] = number


def perform(work: Work, jobs: Sequence[Job], token: str, key: str) -> list[Outcome] | None:
    """Do the work of a batch.

    Args:
        work: what trains the jobs.
        jobs: the batch.
        token: names the sweep: the topic of what is told, and of what stops it.
        key: names the batch in what is told.

    Returns:
        What came of each job; None if it was asked to stop, and saved.

    Raises:
        Reschedule: this process leaves the cluster, or the batch was taken from it; it is saved.
        Exception: what is no error of the product's own; it may pass when tried again.
    """
    worker = get_worker()

    def tell(line: dict[str, Any]) -> None:
        """Training and validation alone: a sweep must not see the test split."""
        if line["split"] != "test":
            told = {name: line[name] for name in TOLD}
            told |= {name: float(told[name]) for name in ("loss", "error_pct")}
            worker.log_event(token, {"key": key, **told})

    def asked() -> int | None:
        return _stops.get(token, signal.SIGTERM if _dropped(worker, key) else None)

    if token in _stops:
        return None

    def wait() -> None:
        worker.log_event(token, {"key": key, "split": WAIT, "step": 0})

    worker.log_event(token, {"key": key, "split": BEGIN, "step": 0})
    try:
        return carry_out(work, jobs, Hooks(on_metrics=tell, stop_signal=asked), wait)
    except Interrupted:
        if token not in _stops:
            raise Reschedule from None
        return None


def _dropped(worker: Worker, key: str) -> bool:
    """Whether nobody waits for a batch any more: its scheduler or the sweep's process was lost.

    The run would be begun elsewhere while it still goes on here.
    """
    task = worker.state.tasks.get(key)
    return worker.status in LEAVING or (task is not None and task.state == "cancelled")
