"""What torchrun and mlx.launch tell a process in its environment: of which job it is a part.

Their variables are read here alone, so that those left over in a shell are refused everywhere in
the same words, and a job that is never complete ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fwt.fwcore.errors import BackendError, ConfigError, RankLostError
from fwt.fwcore.paths import show
from fwt.fwcore.storage import files

LIMIT_S = 300.0  # that processes of a job wait for each other
QUIET_S = 5.0  # before one says that it waits

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# the lists of processes that MLX's ring and its RDMA read, one entry for each
MLX_LISTS = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")
MLX_LAUNCH = ("MLX_WORLD_SIZE", "MLX_RANK", *MLX_LISTS)
HIGHEST_PORT = 65535

# a process that says its second argument if nobody closes its stdin for as long as the first says
SPEAKER = """
import sys, threading
timer = threading.Timer(float(sys.argv[1]), print, sys.argv[2:], {"file": sys.stderr})
timer.daemon = True
timer.start()
sys.stdin.read()
"""


@dataclass(frozen=True)
class Job:
    """A job of one or several processes, as one of them is told of it.

    Attributes:
        launcher: the program that starts such a job.
        backend: the one whose framework connects its processes.
        variables: the launcher's variables that are set; empty without it.
        number: this process, from 0.
        count: how many there are.
        local: this process among those of its machine, from 0.
    """

    launcher: str
    backend: str
    variables: Mapping[str, str] = field(default_factory=dict)
    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def told(self) -> str:
        """The variables as text, `WORLD_SIZE=2, RANK=0`."""
        return ", ".join(f"{name}={value}" for name, value in self.variables.items())

    @property
    def way_out(self) -> str:
        """How a person gets a run on one process."""
        return f"for a run on one process: unset {' '.join(self.variables)}"


def torchrun() -> Job:
    """The job that torchrun, or whatever sets its variables, started.

    Raises:
        ConfigError: a variable has a value that cannot be, or stands without another one.
    """
    job = Job("torchrun", "torch", _variables(TORCHRUN))
    if not job.variables.keys() & {"WORLD_SIZE", "RANK", "LOCAL_RANK"}:
        return job  # an address alone makes no job
    for name in ("WORLD_SIZE", "RANK"):
        if name not in job.variables:
            raise _refusal(job, name, "a number, since the others are set")
    count = _whole(job, "WORLD_SIZE", 1)
    number = _whole(job, "RANK", 0, count - 1)
    local = _whole(job, "LOCAL_RANK", 0, count - 1) if "LOCAL_RANK" in job.variables else 0
    if count > 1:
        if not job.variables.get("MASTER_ADDR"):
            raise _refusal(job, "MASTER_ADDR", "the address of process 0")
        _whole(job, "MASTER_PORT", 1, HIGHEST_PORT)
    return Job(job.launcher, job.backend, job.variables, number, count, local)


def mlx_launch() -> Job:
    """The job that mlx.launch started over its ring, RDMA or NCCL.

    Raises:
        ConfigError: see `torchrun`.
    """
    job = Job("mlx.launch", "mlx", _variables(MLX_LAUNCH))
    if not job.variables:
        return job
    if "MLX_RANK" not in job.variables:
        raise _refusal(job, "MLX_RANK", "a number, since the others are set")
    lists = [name for name in MLX_LISTS if name in job.variables]
    if "MLX_WORLD_SIZE" in job.variables:
        count = _whole(job, "MLX_WORLD_SIZE", 1)
    elif lists:
        count = _entries(job, lists[0])
    else:
        raise _refusal(job, "MLX_HOSTFILE", "a file, since MLX_RANK is set")
    number = _whole(job, "MLX_RANK", 0, count - 1)
    return Job(job.launcher, job.backend, job.variables, number, count)


def job_of(backend: str) -> Job:
    """The job of which this process is a part, on a backend.

    Raises:
        BackendError: another framework's launcher started several processes: each would run the
            whole job.
        ConfigError: see `torchrun`.
    """
    jobs = [torchrun(), mlx_launch()]
    for job in jobs:
        if job.count > 1 and job.backend != backend:
            raise BackendError(
                f"backend {backend}: {job.launcher} starts processes for --backend {job.backend}, "
                f"got {job.told}; {job.way_out}"
            )
    return next((job for job in jobs if job.backend == backend), Job("none", backend))


def check_alone(what: str) -> None:
    """Refuse several processes of a launcher where each would do the whole of `what`.

    Raises:
        ConfigError: so it is; or see `torchrun`.
    """
    for job in (torchrun(), mlx_launch()):
        if job.count > 1:
            raise ConfigError(
                f"{what}: several processes train one run together, got {job.told}; leave "
                f"{job.launcher} out; {job.way_out}"
            )


def follower() -> Job | None:
    """The job in which this process is not the first, which speaks for all; None if it is.

    Raises:
        ConfigError: see `torchrun`.
    """
    return next((job for job in (torchrun(), mlx_launch()) if job.number), None)


def _variables(names: tuple[str, ...]) -> dict[str, str]:
    """Those of the environment."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _refusal(job: Job, name: str, wanted: str) -> ConfigError:
    """The error of a variable that is missing or has a value that cannot be."""
    value = job.variables.get(name)
    got = f"no {name} beside {job.told}" if value is None else f"{name}={value!r}"
    return ConfigError(f"{job.launcher}: expected {name} to be {wanted}, got {got}; {job.way_out}")


def _whole(job: Job, name: str, least: int, most: int | None = None) -> int:
    """A variable's whole number from `least` to `most`."""
    text = job.variables.get(name, "")
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
    if number < least or (most is not None and number > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise _refusal(job, name, f"a whole number {bound}")
    return number


def _entries(job: Job, name: str) -> int:
    """How many processes a list in a file has; mlx.launch leaves it empty for one."""
    try:
        text = files.text(Path(job.variables[name]))
        found = files.from_json(text) if text.strip() else [None]
    except (OSError, ValueError) as error:
        raise _refusal(job, name, f"a JSON file of all processes ({error})") from error
    if not isinstance(found, list) or not found:
        raise _refusal(job, name, "a JSON file with a list of all processes")
    return len(found)


@contextmanager
def connecting(job: Job) -> Iterator[None]:
    """While a framework connects the processes of a job: say after a while for whom it waits.

    A process of its own says so, since MLX lets no thread of Python run meanwhile.

    Raises:
        RankLostError: the others did not come within `LIMIT_S`, or the framework gave up before.
    """
    text = show(f"waiting for {job.count} processes ({job.told})")
    words = [sys.executable, "-ISc", SPEAKER, str(QUIET_S), text]
    began = time.monotonic()
    try:
        with (
            _interruptible(),
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            ),
        ):
            yield
    except (RuntimeError, ValueError) as error:
        late = time.monotonic() - began >= LIMIT_S
        reason = f"no answer for {LIMIT_S:.0f} s" if late else str(error).partition("\n")[0]
        raise RankLostError(
            f"train: expected to reach all {job.count} processes, process {job.number} did not: "
            f"{reason}; {job.told}; start all of them with {job.launcher}, or {job.way_out}"
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process, and an alarm at `LIMIT_S` the wait for a connection.

    A framework that connects heeds no handler of Python's before it is done, and MLX's ring has no
    limit of its own. Signals are of the main thread: in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGALRM"):  # not on Windows
        handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
