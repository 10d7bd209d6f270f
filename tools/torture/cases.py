"""One case: a run that is struck, looked at, gone on with, and held against one left alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tools.torture import judge
from tools.torture.moment import SIGNALS, forbid
from tools.torture.plan import STREAMS, Blow, blows
from tools.torture.start import Disk, Ended, begin, words

STAYS = re.compile(r"(step-[0-9]{8}): cannot be removed")
NEVER = 10**9  # no boundary has this number
ROOM = 64 * 1024  # KiB of a disk that is large enough
FINE = 0
USAGE = 2
REFUSED = 4  # the code of a file that cannot be written


@dataclass
class Told:
    """What became of a case.

    Attributes:
        struck: kind and boundary of each blow that met a process that was still at work.
        missed: kinds of those that came after its end.
        kept: checkpoints of which a process said that they cannot be removed.
        faults: what should not be.
    """

    struck: list[tuple[str, str]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Bench:
    """Where the cases of one backend happen.

    Args:
        root: an empty folder.
        backend: a backend that trains, loaded by `tools.torture.start.load`.
        seed: of all cases.
        disk: a file system whose size can be changed, or None where there can be none.
    """

    def __init__(self, root: Path, backend: str, seed: int, disk: Disk | None) -> None:
        self.root, self.backend, self.seed, self.disk = root, backend, seed, disk
        root.chmod(0o777)  # for those who gave up their rights
        self.whole = root / "whole"
        left = begin(words(self.whole, backend), self.whole, None)
        if left.code:
            raise RuntimeError(f"a run that is left alone ends with {left.code}: {left.err}")
        self.points = left.points
        # the first process of a backend takes longer than all that come after it
        usual = begin(words(root / "usual", backend), root / "usual", Blow("kill", NEVER))
        shutil.rmtree(root / "usual")
        self.seconds = min(left.seconds, usual.seconds)

    def case(self, number: int) -> Told:
        """Do one case."""
        plan = blows(self.seed, self.backend, number, self.points)
        told, place = Told(), self.root
        if plan[0].kind == "disk":
            if self.disk is None:
                told.missed.append("disk")
                return told
            self.disk.resize(plan[0].size)
            place = self.disk.folder
        run = place / "run"
        for blow in plan:
            self._strike(run, blow, told)
        if self.disk is not None and plan[0].kind == "disk":
            self.disk.resize(ROOM)
        self._go_on(run, told)
        shutil.rmtree(run)
        return told

    def _strike(self, run: Path, blow: Blow, told: Told) -> None:
        """One process that something happens to, and a look at what it leaves."""
        ended = begin(
            words(run, self.backend, blow),
            run,
            blow,
            blow.share * self.seconds,
            lambda: self._second(run, told),
        )
        if blow.kind == "time" and ended.code == FINE:  # too late: runs have become quicker
            self.seconds = min(self.seconds, ended.seconds)
        if blow.kind == "readonly" and run.exists():
            forbid(run, 0o755)
        done = (run / "DONE").exists()
        if (ended.code == FINE or blow.kind in STREAMS) and not done:
            told.faults.append(f"{blow.kind}: exit code {ended.code}, but no DONE")
        if ended.code == FINE and (blow.kind in ("disk", "time", "torn") or not ended.points):
            told.missed.append(blow.kind)
        else:
            told.struck.append((blow.kind, ended.points[0] if ended.points else "any"))
        told.kept += STAYS.findall(ended.err)
        told.faults += [f"{blow.kind}: {fault}" for fault in unexpected(blow, ended)]
        told.faults += [f"after {blow.kind}: {fault}" for fault in judge.faults_between(run)]

    def _second(self, run: Path, told: Told) -> None:
        """A second process in the folder of one that stands still."""
        before = judge.contents(run)
        locked = (run / ".lock").exists()
        second = begin(words(run, self.backend), run, None)
        if locked and (second.code != USAGE or "in use by another process" not in second.err):
            names = sorted(path.name for path in run.iterdir())
            told.faults.append(f"again: exit code {second.code}: {second.err} in {names}")
        if locked and judge.contents(run) != before:
            told.faults.append("again: the second process changed the run")

    def _go_on(self, run: Path, told: Told) -> None:
        """The run to its end, held against the one that was left alone."""
        ended = begin(words(run, self.backend), run, Blow("kill", NEVER))
        if ended.code != FINE or ended.err:
            told.faults.append(f"going on: exit code {ended.code}: {ended.err}")
        left = [f"checkpoints/{name}/" for name in told.kept]  # a run that is done removes none
        faults = judge.faults_at_end(run, self.whole)
        told.faults += [
            f"at the end: {each}" for each in faults if not each.startswith(tuple(left))
        ]


def unexpected(blow: Blow, ended: Ended) -> list[str]:
    """What is wrong with how a process ended, after what happened to it."""
    lines = ended.err.splitlines()
    shown = f"exit code {ended.code}: {ended.err[-2000:]}"
    if blow.kind in STREAMS:
        progress = all(line.startswith("step ") for line in lines)
        return (
            [] if progress and ended.code == (FINE if blow.kind == "pipe" else REFUSED) else [shown]
        )
    if ended.code == FINE:
        return [] if _warned(blow, lines) else [shown]
    if blow.kind == "again" and ended.code == USAGE:
        # the second came before the lock was taken, and has made the run
        return [] if "exists; go on with: fwt train --resume" in ended.err else [shown]
    if blow.kind in ("kill", "late", "time", "again"):
        return [] if ended.code == -signal.SIGKILL and not lines else [shown]
    if blow.kind == "torn":
        return [] if ended.code == -signal.SIGXFSZ and not lines else [shown]
    if blow.kind in ("term", "hup", "int"):
        return _unsaved(blow, ended, shown)
    *before, last = lines or [""]
    refused = ended.code == REFUSED and last.startswith("error: ") and _warned(blow, before)
    return [] if refused else [shown]


def _warned(blow: Blow, lines: list[str]) -> bool:
    """Whether there is nothing, or, where none can be removed, that old checkpoints stay."""
    told = [line.startswith("warning: ") and "cannot be removed" in line for line in lines]
    return not lines or (blow.kind in ("readonly", "rename") and all(told))


def _unsaved(blow: Blow, ended: Ended, shown: str) -> list[str]:
    """Faults of a process that was asked to stop: it says where it saved, or had nothing yet."""
    number = SIGNALS[blow.kind]
    if ended.code == 128 + number and "go on with: fwt train --resume" in ended.err:
        return []
    # before there was a run
    early = (130, f"interrupted{os.linesep}") if blow.kind == "int" else (-number, "")
    return [] if (ended.code, ended.err) == early else [shown]
