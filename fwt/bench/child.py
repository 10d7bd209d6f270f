"""A fresh process that makes one training step of one subject: time, peak memory, or its end.

It shows what only a process of its own can show: how far the resident memory grows, and that a
step which is killed, crashes or never ends takes nothing else with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from fwt import backends
from fwt.bench import machine, subjects
from fwt.bench.shapes import Shape, batch_of, spec_of, weights_of
from fwt.bench.timing import timed
from fwt.fwcore.errors import FwtError

ROOT = Path(__file__).resolve().parents[2]
NO_MEMORY = 12  # the exit code for it
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|unable to allocate", re.IGNORECASE)
# glibc gives every block from 64 KiB on back when it is freed, so that what is resident is alive
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
START_S = 60.0  # allowed for imports and kernels that are compiled


class Probe(NamedTuple):
    """What one training step of a fresh process told.

    Attributes:
        seconds: of the second step; the first compiles and allocates.
        first: seconds of the first step.
        peak_bytes: how far the resident memory grew.
        how: how that was measured.
    """

    seconds: float
    first: float
    peak_bytes: int
    how: str


class Died(Exception):
    """The process did not give an answer; the message says why."""


def probe(side: subjects.Framework, name: str, shape: Shape, seconds: float) -> Probe:
    """One subject at one shape in a fresh process with the same device and threads.

    Args:
        seconds: the most a step may take.

    Raises:
        Died: it took longer, was killed, was refused or ran out of memory.
        RuntimeError: it failed in another way, which is a fault of ours.
    """
    job = {
        "backend": side.backend.name,
        "device": side.device,
        "threads": side.facts()["threads"],
        "subject": name,
        "shape": list(shape),
    }
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": os.pathsep.join(paths)}
    words = [sys.executable, "-P", "-m", "fwt.bench.child", json.dumps(job)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, timeout=2 * seconds + START_S
        )
    except subprocess.TimeoutExpired:
        raise Died(
            f"two steps took more than {2 * seconds + START_S:.0f} s in a process of their own; "
            "more --seconds allow more"
        ) from None
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise Died(f"a process that made a step was ended by {ended}")
    if done.returncode == NO_MEMORY:
        raise Died(f"a step ran out of memory: {done.stderr.splitlines()[-1]}")
    if done.returncode:
        raise RuntimeError(f"{name} at {shape} in a process of its own:\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    if "refused" in told:
        raise Died(told["refused"])
    return Probe(**told)


def answered(job: dict[str, Any]) -> dict[str, Any]:
    """`run` as what the child prints: its answer, or why the product refuses the job."""
    try:
        return run(job)._asdict()
    except FwtError as error:
        return {"refused": str(error)}
    except (MemoryError, RuntimeError) as error:
        # both frameworks' words; PyTorch has a class of its own only for CUDA
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            print(" ".join(str(error).split()), file=sys.stderr)
            sys.exit(NO_MEMORY)
        raise


def run(job: dict[str, Any]) -> Probe:
    """The child's work."""
    side = subjects.framework(backends.load(job["backend"]), job["device"], job["threads"])
    shape = Shape(*job["shape"])
    _steps(side, job["subject"], Shape(min(shape.batch, 2), min(shape.steps, 3), *shape[2:]))
    spec, data = spec_of(subjects.kind_of(job["subject"]), shape), batch_of(shape)
    params = weights_of(spec)
    side.release()
    peak = machine.ResidentPeak()
    subject = side.subject(job["subject"], spec, params, data)
    first, second = (timed(lambda: side.wait(subject.train())) for _ in range(2))
    return Probe(second, first, peak.growth(), peak.how)


def _steps(side: subjects.Framework, name: str, shape: Shape) -> None:
    """A tiny step, so that libraries and kernels are loaded before memory is looked at."""
    spec = spec_of(subjects.kind_of(name), shape)
    subject = side.subject(name, spec, weights_of(spec), batch_of(shape))
    side.wait(subject.train())


if __name__ == "__main__":
    print(json.dumps(answered(json.loads(sys.argv[1]))))
