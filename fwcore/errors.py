"""The errors a user can meet: one base class, one exit code each, one way to word them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FwtError(Exception):
    """Base of every error `fwt` raises on purpose.

    The message is one line that says where, what was expected, what came (`name=value`)
    and what to do. `exit_code` is what the command line returns for it.
    """

    exit_code = 1


class CheckFailed(FwtError):
    """A comparison ran to its end and did not hold (`fwt verify`, `fwt convert --verify`)."""

    exit_code = 1


class ConfigError(FwtError):
    """A flag, a config key, a spec field or a folder name cannot be used as given."""

    exit_code = 2


class InUseError(ConfigError):
    """Another process writes in the run folder."""


class BackendError(FwtError):
    """A backend, device or number type is not there on this machine."""

    exit_code = 3


class FileError(FwtError):
    """A file that the command needs is missing, damaged or cannot be written."""

    exit_code = 4


class DataError(FileError):
    """A dataset is missing, incomplete or not what its checksum says."""


class CheckpointError(FileError):
    """A checkpoint is missing, damaged, or not of the model it is loaded into."""


class DivergedError(FwtError):
    """The loss or a weight stopped being a finite number."""

    exit_code = 5


class RankLostError(FwtError):
    """Another process of a job that trains on several did not answer."""

    exit_code = 6


class Interrupted(FwtError):
    """The run was stopped by a signal; its checkpoint was saved before this was raised.

    `exit_code` is 128 + the signal's number (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The one known name that `name` may have meant, or none."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the known name nearest to `name`, then all of them."""
    names = sorted(known)
    hint = "".join(f"did you mean {near!r}? " for near in closest(name, names))
    return f"{hint}known: {', '.join(names) if names else 'none'}"
