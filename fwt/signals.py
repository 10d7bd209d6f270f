"""Ctrl-C, SIGTERM and SIGHUP as a flag that the training loop reads between two updates."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from fwt.fwcore.errors import RankLostError


def _signals() -> list[int]:
    """What asks a run to stop; not a SIGHUP that is ignored, as it is below `nohup`."""
    found: list[int] = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


class StopFlag:
    """While it is entered, a signal is remembered instead of ending the process.

    So an update or a save that is under way ends well, and the run is saved before it stops.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in _signals()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RankLostError):
            return  # the launcher sends SIGTERM now, which must not cut off what is to be said
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def read(self) -> int | None:
        """The number of the signal that came, or None."""
        return self.number
