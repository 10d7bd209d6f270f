"""In the process that trains: count the boundaries of its work, and strike before one of them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tools.torture.plan import FAILING, Blow

NOBODY = 65534  # the user whom permissions hold, where the harness runs as root
CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")  # of Python's audit events
DIGITS = re.compile(r"\d{2,}")
SIGNALS = {
    "kill": signal.SIGKILL, "late": signal.SIGKILL, "term": signal.SIGTERM,
    "hup": signal.SIGHUP, "int": signal.SIGINT, "again": signal.SIGSTOP,
}  # fmt: skip


def _name(path: object) -> str:
    """What a file is called, without the number of its step."""
    return DIGITS.sub("N", Path(os.fsdecode(path)).name)  # type: ignore[arg-type]


class Moment:
    """Counts boundaries, and strikes before number `blow.at`.

    A boundary is a call that opens, makes, renames, removes or syncs something of the run, the
    beginning of an update, or that of an evaluation.

    Args:
        run: the run's folder.
        blow: what to do; None only counts.
        told: called with the name of the boundary before it is struck, or of each if none is.
    """

    def __init__(self, run: Path, blow: Blow | None, told: Callable[[str], None]) -> None:
        self._run, self._blow, self._told = run, blow, told
        self._count, self._opened = 0, ""
        self._busy = False

    def watch(self) -> None:
        """Begin; a process cannot stop being watched."""
        from fwt.fwcore.training.batches import BatchOrder
        from fwt.fwcore.training.lockstep import Alone

        sys.addaudithook(self._heard)
        self._before(os, "fsync", lambda: f"fsync {self._opened}")
        self._before(BatchOrder, "rows", lambda: "update")
        self._before(Alone, "evaluate", lambda: "evaluate")

    def _before(self, owner: Any, name: str, label: Callable[[], str]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._reached(label())
            return real(*arguments, **named)

        setattr(owner, name, call)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CALLS or self._busy:
            return
        path, rest = arguments[0], arguments[1:]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        # shutil.rmtree names a file by its folder's handle; nothing else here does
        in_folder = event in ("os.remove", "os.rmdir") and rest[-1] != -1
        if in_folder or Path(os.fsdecode(path)).is_relative_to(self._run):
            if event == "open":
                self._opened = _name(path)
            to = f" to {_name(rest[0])}" if event == "os.rename" else ""
            self._reached(f"{event.removeprefix('os.')} {_name(path)}{to}")

    def _reached(self, label: str) -> None:
        number, self._count = self._count, self._count + 1
        blow = self._blow
        if blow is None:
            self._told(label)
        elif number == blow.at:
            self._told(label)
            self._busy = True
            try:
                strike(blow, self._run)
            finally:
                self._busy = False
        elif number > blow.at and blow.lasts and label.startswith(blow.kind):
            fail()


def strike(blow: Blow, run: Path) -> None:
    """Do to this process what was planned."""
    if blow.kind in SIGNALS:
        os.kill(os.getpid(), SIGNALS[blow.kind])
    elif blow.kind in ("torn", "full"):
        deadly = blow.kind == "torn"
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (blow.size, most))
    elif blow.kind in FAILING:
        fail()
    elif blow.kind in ("pipe", "device"):
        lose_output(blow.kind)
    elif blow.kind == "readonly":
        forbid(run, 0o555)
        become_nobody(run.parent)


def fail() -> NoReturn:
    """Raised before a call, or by an audit hook in its place, this is what the call answers."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def lose_output(kind: str) -> None:
    """Make stdout and stderr a pipe that nobody reads, or a device that is full."""
    if kind == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(writer, number)
    os.close(writer)


def close_streams() -> None:
    """Close stdin, stdout and stderr, as Python sees those that were closed when it began."""
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]


def forbid(run: Path, mode: int) -> None:
    """Give all folders of a run one mode."""
    for folder in [run, *(path for path in run.rglob("*") if path.is_dir())]:
        with contextlib.suppress(FileNotFoundError):  # not made yet
            folder.chmod(mode)


def become_nobody(folder: Path) -> None:
    """Give up the rights that permissions do not hold, but keep a place for MLX's kernels."""
    if os.geteuid() == 0:
        own = tempfile.mkdtemp(dir=folder)
        os.chown(own, NOBODY, NOBODY)
        os.environ["TMPDIR"] = own
        os.setgid(NOBODY)
        os.setuid(NOBODY)
