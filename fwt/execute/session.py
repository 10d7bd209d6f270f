"""One process's part of a run in `run.json`: what it ran on, and how it ended."""

from __future__ import annotations

from typing import Any

from fwt import environment
from fwt.fwcore.errors import FileError
from fwt.fwcore.storage.runs import DONE, RUNNING, RunFolder
from fwt.fwcore.training import launcher
from fwt.jobs import Failure


class Session:
    """The session of this process; a context manager, entered with the folder.

    Args:
        folder: the run's folder.
        facts: what is said of the process.

    Attributes:
        reason: how it ends, as `run.json` has it.
    """

    def __init__(self, folder: RunFolder, facts: dict[str, Any]) -> None:
        self._folder, self._facts = folder, facts
        self.reason = "unknown"
        self._earlier: list[Any] = []

    def __enter__(self) -> Session:
        gone = {"exit": self._folder.silent_end()}  # of who did not say: this one has the lock now
        self._earlier = [
            {**each, **gone} if each.get("exit") == RUNNING else each
            for each in self._folder.sessions()
        ]
        self._write(RUNNING)
        return self

    def _write(self, reason: str) -> None:
        entry = {**self._facts, "exit": reason}
        self._folder.write_json("run.json", {"sessions": [*self._earlier, entry]})

    def fail(self, error: BaseException) -> None:
        """Note what ended the session."""
        self.reason = Failure.of(error).text

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.fail(error)
        self._facts["ended"] = environment.now()
        try:
            self._write(self.reason)
        except FileError:
            if error is None:
                raise  # else what stopped the run (a full disk, say) is the news


def last_session(folder: RunFolder) -> dict[str, Any]:
    """The facts of the last session; {} where there is none."""
    return dict((folder.sessions() or [{}])[-1])


def close_session(folder: RunFolder) -> None:
    """Note the end of a run that is done where the process was killed before it could.

    Raises:
        ConfigError: that process is still at it.
        FileError: it cannot be written.
    """
    if last_session(folder).get("exit") != RUNNING or launcher.follower() is not None:
        return
    with folder:
        *earlier, last = folder.sessions()
        folder.write_json("run.json", {"sessions": [*earlier, {**last, "exit": DONE}]})
