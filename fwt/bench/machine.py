"""The machine: the name of its CPU, and the peak memory of this process."""

from __future__ import annotations

import ctypes
import platform
import resource
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def cpu_name() -> str:
    """The CPU's name as the system gives it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _status(field: str) -> int:
    """A number of `/proc/self/status` in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{STATUS} has no {field}")


class ResidentPeak:
    """How far the resident memory of this process grows above its size when this is made.

    On Linux the system's own peak is reset first, and memory that the allocator keeps is given
    back; elsewhere only growth above all earlier peaks shows.

    Attributes:
        how: how it is measured, in words.
    """

    def __init__(self) -> None:
        self._linux = sys.platform == "linux"
        if self._linux:
            ctypes.CDLL(None).malloc_trim(0)
            CLEAR.write_text("5")
            self._before = _status("VmRSS")
            self.how = "growth of VmHWM of a fresh process"
        else:
            self._before = self._highest()
            self.how = "growth of ru_maxrss of a fresh process"

    def _highest(self) -> int:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def growth(self) -> int:
        """Bytes."""
        return (_status("VmHWM") if self._linux else self._highest()) - self._before
