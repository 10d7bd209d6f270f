"""How a case ends: refused, accepted, or a finding; and what the process did meanwhile.

Python's audit events tell every file that is opened for writing, every removal, process, socket and
pickled name, so that nothing a file makes the product do goes unseen.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fwt.cli.failure import one_line
from fwt.fwcore.errors import FwtError
from tests.fuzz.verdict import Verdict

CPU_S = 2.0  # of a case; more is a finding
WALL_S = 10.0  # a case that waits for ever is woken after it
MEMORY = 48 * 2**20, 8  # bytes, and times the size of the files, that a case may add to the peak
ROOM = 2 * 2**30  # bytes of address space a process may take beside what it has
LINE = 2000  # characters of an error line
PEAK, FORGET = Path("/proc/self/clear_refs"), "5"  # Linux: lowers the peak to what is had now
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# event -> which of its arguments are paths that are changed
CHANGING = {
    "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.rename": (0, 1), "os.chmod": (0,),
    "os.symlink": (1,), "os.link": (1,), "os.truncate": (0,), "os.utime": (0,),
}  # fmt: skip
FOLLOWING = ("os.chmod", "os.truncate", "os.utime")  # act on what a link points at
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
         "pickle.find_class", "ctypes.dlopen", "webbrowser.open")  # fmt: skip


class Broken(Exception):
    """What was read is not what may be read: a damaged file was taken for a good one."""


class TooLong(BaseException):
    """A case took too long; no reader may catch it."""


class Guard:
    """Watches the cases of a process.

    Args:
        arena: the only folder that may be written to.
    """

    def __init__(self, arena: Path) -> None:
        self._arena = os.path.realpath(arena) + os.sep
        self._on, self._events = False, []  # type: bool, list[str]
        self._peak = 0
        sys.addaudithook(self._heard)
        signal.signal(signal.SIGALRM, self._woken)

    def limit(self, on: bool) -> None:
        """Limit the address space of this process to what it has and `ROOM`, or no longer."""
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = pages * resource.getpagesize() + ROOM if on else hard
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))

    def _woken(self, *_: Any) -> None:
        raise TooLong

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING:
                self._changed(event, path, follows=True)
        elif event in CHANGING:
            for at in CHANGING[event]:
                self._changed(event, arguments[at], follows=event in FOLLOWING)
        elif event in NEVER:
            self._events.append(f"{event} {arguments!r:.200}")

    def _changed(self, event: str, path: Any, follows: bool) -> None:
        if isinstance(path, int):
            return  # a file that is open already
        self._on = False  # looking at the path must not be heard
        above, name = os.path.split(os.fsdecode(path))
        place = os.path.join(os.path.realpath(above), name)
        if follows:
            place = os.path.realpath(place)
        if not (place + os.sep).startswith(self._arena):
            self._events.append(f"{event} {place}")
        self._on = True

    def settle(self) -> None:
        """Take the memory that the process has for granted, on Linux whatever it once had."""
        if PEAK.exists():
            PEAK.write_text(FORGET, encoding="ascii")
        self._peak = peak_bytes()

    def judge(self, size: int, act: Callable[[], Any]) -> Verdict:
        """Run a case.

        Args:
            size: bytes of its files.
            act: reads them; it raises `Broken` for what should not have been accepted.
        """
        self._events.clear()
        self.settle()  # what making the case took is not the reader's
        began = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, WALL_S)
        self._on = True
        try:
            act()
            verdict = Verdict("accepted")
        except FwtError as error:
            verdict = _line(one_line(error))
        except Broken as error:
            verdict = Verdict("silent", str(error)[:LINE])
        except TooLong:
            verdict = Verdict("slow", f"waited {WALL_S:.0f} s", traceback.format_exc())
        except BaseException as error:  # what else a reader raises is what is looked for
            text = f"{type(error).__name__}: {error}"[:LINE]
            verdict = Verdict("crash", text, traceback.format_exc())
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        peak = peak_bytes()
        spent, grown = time.process_time() - began, peak - self._peak
        return replace(self._after(verdict, size, spent, grown), peak=peak)

    def _after(self, verdict: Verdict, size: int, spent: float, grown: int) -> Verdict:
        if self._events:
            return Verdict("escape", "; ".join(self._events[:5]))
        if verdict.bad:
            return verdict
        if spent > CPU_S:
            return Verdict("slow", f"{spent:.1f} s of processor time")
        if grown > MEMORY[0] + MEMORY[1] * size:
            return Verdict("memory", f"{grown / 2**20:.0f} MiB for {size} bytes")
        return verdict


def _line(text: str) -> Verdict:
    """A refusal, whose line must be one that can be shown."""
    if len(text) > LINE:
        return Verdict("line", f"{len(text)} characters: {text[:200]}")
    if not text.isprintable():
        return Verdict("line", f"not printable: {text!r:.400}")
    return Verdict("refused", text)


def peak_bytes() -> int:
    """The most memory that this process has had, on Linux since `Guard.settle`."""
    if PEAK.exists():
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
