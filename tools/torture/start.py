"""`fwt train` in processes that have the framework imported already, and how they end."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.torture.moment import Moment, close_streams
from tools.torture.plan import STREAMS, Blow

# nothing is downloaded, and results are the same to the bit, which a GPU does not promise
SETTINGS = {"FWT_OFFLINE": "1", "FWT_DEVICE": "cpu"}
# 12 updates, 8 an epoch; metrics, validations and saves fall on different updates
RUN = (
    "--task", "retrieval", "--size", "4", "--batch-size", "32", "--lr", "0.02", "--schedule",
    "constant", "--steps", "12", "--set", "task.train=256", "--set", "task.val=64", "--set",
    "task.test=64", "--log-every", "5", "--eval-every", "4", "--save-every", "3", "--keep", "1",
    "--dropout", "0.1",
)  # fmt: skip
LOADED = (
    "fwt.lists", "fwt.cli.main", "fwt.execute.together", "fwt.execute.alone",
    "fwt.fwcore.storage.foreign",
    "importlib.readers", "fwt.tasks.retrieval", "typer._adapters",
)  # fmt: skip
TMPFS = "fwt-torture"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; minus the signal's number if one ended it.
        err: what it wrote on stderr.
        points: the boundaries that it was told of: all, or the one that was struck.
        seconds: that it ran.
    """

    code: int
    err: str
    points: list[str]
    seconds: float


def load(backend: str) -> None:
    """Import all that a process would; nothing may be computed before processes are forked.

    A process that gives up its rights may not be able to read modules afterwards.

    Raises:
        BackendError: the backend is not there.
    """
    for name in LOADED:
        importlib.import_module(name)
    from fwt import backends

    backends.load(backend, "highest")
    if backend == "torch":
        import torch

        torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)  # imports more


def words(run: Path, backend: str, blow: Blow | None = None) -> list[str]:
    """The command that begins a run, or goes on with it; it shows progress if that is lost."""
    known = (run / "spec.json").exists()
    begin = ("--resume", str(run)) if known else (*RUN, "--out", str(run))
    quiet = () if blow is not None and blow.kind in STREAMS else ("--quiet",)
    return ["train", *begin, "--backend", backend, *quiet]


def _child(command: list[str], run: Path, blow: Blow | None, told: int, err: int) -> None:
    """Everything of the new process; does not return."""
    import resource

    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGXFSZ would write one
        # a harness in the background of a shell hands on that Ctrl-C is ignored, and below
        # `nohup` that a hangup is
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        from fwt.cli import streams
        from fwt.cli.main import run as command_line

        if blow is not None and blow.kind == "closed":
            close_streams()
        Moment(run, blow, lambda label: _write(told, label)).watch()
        code = streams.guarded(lambda: command_line(command))
    finally:  # whatever was raised, a child never goes on in the harness
        if sys.exc_info()[0] is not None:  # it ends with 1, which the judge takes for a fault
            os.write(err, traceback.format_exc().encode())
        os._exit(code)


def _write(handle: int, label: str) -> None:
    os.write(handle, f"{label}\n".encode())


def begin(
    command: list[str],
    run: Path,
    blow: Blow | None,
    seconds: float = 0.0,
    meanwhile: Callable[[], None] | None = None,
) -> Ended:
    """A process that runs `fwt` until it ends.

    Args:
        command: the words after `fwt`.
        run: the folder whose boundaries count.
        blow: what happens to it, or None.
        seconds: after which it is killed from outside, for a blow of that kind.
        meanwhile: called while it stands still, for a blow that stops it; then it is killed, or
            goes on.
    """
    ends = [os.pipe() for _ in range(2)]
    began = time.monotonic()
    child = os.fork()
    if not child:
        _child(command, run, blow, ends[0][1], ends[1][1])
    for _, ours in ends:
        os.close(ours)
    if blow is not None and blow.kind == "time":
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        if meanwhile is not None:
            meanwhile()
        goes_on = blow is not None and blow.share < 0.5
        os.kill(child, signal.SIGCONT if goes_on else signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    took = time.monotonic() - began
    said = []
    for theirs, _ in ends:
        with os.fdopen(theirs, encoding="utf-8", errors="replace") as file:
            said.append(file.read())
    return Ended(os.waitstatus_to_exitcode(status), said[1], said[0].splitlines(), took)


class Disk:
    """A file system in memory of a size that can be changed; a context manager.

    It is seen by this process and those it starts alone. It asks for the rights of an
    administrator of this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._up = False

    @staticmethod
    def possible() -> bool:
        """Whether one can be made here."""
        words = ["unshare", "-m", "mount", "-t", "tmpfs", TMPFS, "/mnt"]
        try:
            return subprocess.run(words, capture_output=True).returncode == 0
        except OSError:
            return False

    def resize(self, kib: int) -> None:
        """Make it, or give it another size."""
        options = f"{'remount,' if self._up else ''}size={kib}k"
        self.folder.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", options, TMPFS, str(self.folder)]
        subprocess.run(words, check=True)
        self._up = True

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._up:
            subprocess.run(["umount", str(self.folder)], check=True)
