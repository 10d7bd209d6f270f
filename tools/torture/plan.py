"""What is done to a run: a pure function of the seed, the backend and the case's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwt.fwcore.rng import Stream

# what is done in each `len(ROUND)` cases of a backend, one after another
ROUND = (
    "kill", "kill", "torn", "kill", "late", "kill", "term", "kill", "time", "kill",
    "full", "kill", "torn", "kill", "int", "kill", "again", "kill", "readonly", "kill",
    "late", "kill", "disk", "kill", "torn", "fsync", "rename", "fsync", "rename",
    "hup", "pipe", "device", "closed",
)  # fmt: skip
MEANING = {
    "kill": "SIGKILL before a call that changes or reads the run folder, an update, an evaluation",
    "late": "the same, after the last update",
    "time": "SIGKILL from outside, after a random time",
    "torn": "the kernel writes the first bytes of a write, then kills (SIGXFSZ)",
    "term": "SIGTERM",
    "hup": "SIGHUP",
    "int": "SIGINT",
    "full": "no file may grow any more (RLIMIT_FSIZE), from some call on",
    "disk": "a file system with too little room",
    "readonly": "the run folder and what is in it may not be written any more, from some call on",
    "fsync": "a file or folder cannot be synced (EIO), once or from then on",
    "rename": "a file or folder cannot be renamed (EIO), once or from then on",
    "pipe": "stdout and stderr become a pipe that nobody reads, from some call on",
    "device": "stdout and stderr become a device that is full, from some call on",
    "closed": "stdin, stdout and stderr are closed from the beginning",
    "again": "a second process starts in the same folder while the first stands still",
}
FAILING = ("fsync", "rename")  # calls that answer with an error; the first word of a boundary
STREAMS = ("pipe", "device", "closed")  # nothing that is shown ends a run
# whose next process may die, too
GONE_ON = ("kill", "late", "time", "torn", "term", "hup", "full", *FAILING)
LARGEST = 50_000  # bytes; more than any file of the run has
SMALLEST_DISK, LARGEST_DISK = 24, 220  # KiB; the run needs at most some 250
MORE = 3  # processes that go on and are killed, too, at most
EARLY = 60  # boundaries of a process that goes on, within which it is killed


@dataclass(frozen=True)
class Blow:
    """What happens to one process.

    Attributes:
        kind: a key of `MEANING`.
        at: the number of the boundary before which it happens, from 0.
        size: bytes after which a write fails; KiB of the disk.
        share: of the time that the run takes, when killed from outside; a call that fails does so
            from then on if it is below one half.
    """

    kind: str
    at: int = 0
    size: int = 0
    share: float = 0.0

    @property
    def lasts(self) -> bool:
        """Whether a call that fails once fails ever after."""
        return self.kind in FAILING and self.share < 0.5


def places(kind: str, points: Sequence[str]) -> list[int]:
    """The numbers of the boundaries before which a blow of a kind may happen.

    Args:
        points: the boundaries of a process that is left alone, by name.
    """
    if kind == "late":
        return list(range(len(points) - points[::-1].index("update"), len(points)))
    wanted = kind if kind in FAILING else ""
    return [at for at, label in enumerate(points) if label.startswith(wanted)]


def blows(seed: int, backend: str, number: int, points: Sequence[str]) -> list[Blow]:
    """What is done in a case: to the process that begins, and maybe to some that go on.

    Args:
        number: of the case among those of the backend.
        points: see `places`.
    """
    turn, place = divmod(number, len(ROUND))
    kind = ROUND[place]
    # every boundary has its turn before one has a second
    turn = turn * ROUND.count(kind) + ROUND[:place].count(kind)
    stream = Stream(seed, "torture", backend, number)
    chosen = places(kind, points)
    lap, step = divmod(turn, len(chosen))
    at = chosen[int(Stream(seed, "torture", backend, kind, lap).permutation(len(chosen))[step])]
    part, share = stream.uniform((2,)).tolist()
    size = max(1, int(LARGEST**part))
    if kind == "disk":
        size = SMALLEST_DISK + int(part * (LARGEST_DISK - SMALLEST_DISK))
    more = int(stream.integers(MORE + 1, ())) if kind in GONE_ON else 0
    early = stream.integers(EARLY, (more,)).tolist()
    return [Blow(kind, at, size, share), *(Blow("kill", each) for each in early)]
