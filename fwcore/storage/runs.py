"""The run folder: spec, environment, metrics, checkpoints, and who may write in it.

runs/<task>/<model>-R<size>-<hash>-s<seed>-<backend>/
spec.json  run.json  metrics.jsonl  best  last  DONE  checkpoints/step-00000100/
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import filelock
import pydantic

from fwt.fwcore.errors import CheckpointError, ConfigError, DivergedError, FileError
from fwt.fwcore.frozen import Frozen, Items
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import not_finite
from fwt.fwcore.paths import quote
from fwt.fwcore.spec import Count, NonNegative, RunSpec
from fwt.fwcore.storage import checkpoint, durable, files, locks
from fwt.fwcore.storage.checkpoint import Checkpoint, Progress

STEP_NAME = re.compile(r"step-[0-9]{8}")
MOST_POINTER = 4096  # bytes
LOCK = locks.FILE
RUNNING, DONE = "running", "done"  # what a session in `run.json` says of its end
DESKTOP = (".DS_Store", ".directory", "Thumbs.db", "desktop.ini")  # what file managers leave
WRITTEN = (LOCK, "metrics.jsonl", "checkpoints")  # what is written where it is, not renamed to


class Note(Frozen):
    """What is read of a session in `run.json`; whatever else it says is kept as it is."""

    model_config = pydantic.ConfigDict(extra="allow")

    model: str = ""
    dataset: str = ""
    backend: str = ""
    argv: Items[str] = ()
    started: str = ""
    commit: str | None = None
    threads: int | None = None
    exit: str = ""


class Notes(Frozen):
    """The content of `run.json`."""

    model_config = pydantic.ConfigDict(extra="allow")

    sessions: Items[Note] = ()


class Line(Frozen):
    """What is read of a line of `metrics.jsonl`; whatever else it says is kept as it is."""

    model_config = pydantic.ConfigDict(extra="allow")

    step: Count
    split: Literal["train", "val", "test"]
    elapsed_s: NonNegative
    loss: float = 0.0
    error_pct: float = 0.0
    grad_norm: float = 0.0


class Weighted(Protocol):
    """What a run folder asks of a model."""

    def parameters(self) -> dict[str, NumpyArray]: ...

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None: ...

    def optimizer_state(self) -> dict[str, NumpyArray]: ...

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None: ...


def default_path(root: Path, spec: RunSpec, name: str, backend: str) -> Path:
    """Where a run goes unless told otherwise.

    Args:
        root: the folder of all runs (`runs`).
        spec: the run.
        name: the model's name, e.g. `fast-weights`.
        backend: that starts it. It is part of the name so that one spec may be run on both.
    """
    size, seed = spec.model.core.size, spec.train.seed
    task = str(spec.task["kind"])
    return root / task / f"{name}-R{size}-{spec.run_digest()}-s{seed}-{backend}"


class RunFolder:
    """A run on the disk. One process at a time may write in it; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / LOCK)

    @classmethod
    def create(cls, path: Path, spec: RunSpec) -> Self:
        """A new run in a folder that is not there yet, or is empty.

        What a process that was killed in here left half written does not count.

        Raises:
            ConfigError: the folder holds something, or another process begins a run in it.
            FileError: it cannot be written.
        """
        folder = cls(path)
        try:
            _refuse_used(path)
            with durable.new_folder(path):
                folder._begin(spec)
        except OSError as error:
            raise FileError(f"out: {path} cannot be written: {error.strerror}") from error
        return folder

    def _begin(self, spec: RunSpec) -> None:
        """Write the spec; if that fails, nothing is left of the run."""
        self._take()
        try:
            _refuse_used(self.path)  # another process may have begun a run since
            self.write_json("spec.json", spec.json_data())
        except FileError:
            self._unmake()
            raise
        finally:
            self._lock.release()

    @classmethod
    def open(cls, path: Path) -> Self:
        """A run that is there.

        Raises:
            ConfigError: there is no run in the folder.
        """
        if not (path / "spec.json").is_file():
            raise ConfigError(f"resume: no run in {path}; expected a folder with spec.json")
        return cls(path)

    def __enter__(self) -> Self:
        """Take the run for this process, and tidy up after one that was killed in it.

        Raises:
            InUseError: another process has it.
            FileError: it cannot be written, or what is written would land elsewhere.
        """
        for name in WRITTEN:
            if (self.path / name).is_symlink():
                raise FileError(
                    f"out: {self.path / name} is a link; expected a file or folder of the run "
                    "itself, which is written; put it there, or link the whole run folder"
                )
        self._take()
        try:
            self._tidy()
        except OSError as error:
            self._lock.release()
            raise FileError(f"out: {self.path} cannot be written: {error.strerror}") from error
        return self

    def _take(self) -> None:
        """Take the lock, without waiting; what is raised is that of `__enter__`."""
        locks.take(self._lock, "out", "wait for it or use another folder")

    def _tidy(self) -> None:
        for path in sorted((self.path / "checkpoints").glob(".step-*")):
            name = path.name.removeprefix(".").rpartition(".")[0]
            if STEP_NAME.fullmatch(name):
                checkpoint.tidy(path.with_name(name))

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def discard(self) -> None:
        """Remove a run that was created and not begun; it must be entered.

        What cannot be removed stays: an error is on its way, and is the news.
        """
        self._unmake()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _unmake(self) -> None:
        """Remove what was written of a run that has not begun; the first failure is the news."""
        for name in ("spec.json", LOCK):
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    def read_spec(self) -> RunSpec:
        """The run's spec.

        Raises:
            CheckpointError: `spec.json` is damaged or of a newer format.
        """
        path = self.path / "spec.json"
        try:
            data = files.from_json(files.text(path))
            checkpoint.check_version(data.get("format_version"), path)
            return RunSpec.parse(data, str(path))
        except (OSError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error

    def revise(self, before: RunSpec, after: RunSpec, step: int) -> None:
        """Give the run, which must be entered, another length or other reports.

        It is not done any more, first of all: a process that is killed in here leaves the run as it
        was, its last test aside, or with its new spec.

        Args:
            before: the spec that it has.
            after: the spec that it gets.
            step: the step of its last checkpoint.

        Raises:
            ConfigError: it has another spec or step; another process was quicker.
            FileError: it cannot be written.
        """
        if self.read_spec() != before or (self.latest_step() or 0) != step:
            raise ConfigError(
                f"resume: {self.path} was changed by another process just now; try again"
            )
        if after.train != before.train:
            try:
                (self.path / "DONE").unlink(missing_ok=True)
                durable.sync_folder(self.path)
            except OSError as error:
                raise FileError(f"out: {self.path} cannot be written: {error.strerror}") from error
        self.write_json("spec.json", after.json_data())

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        durable.write_text(self.path / name, json.dumps(data, indent=1) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run that holds an object; None if there is no such file.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.path / name
        return checkpoint.read_object(path) if path.exists() else None

    def sessions(self) -> list[dict[str, Any]]:
        """What `run.json` says of the processes that trained it, oldest first; [] without one.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.path / "run.json"
        found = self.read_json("run.json")
        try:
            notes = Notes.parse(found or {}, str(path))
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        return [note.model_dump(mode="json", exclude_unset=True) for note in notes.sessions]

    def state(self) -> str:
        """How the last session ended, or that it is running, or that its process is gone."""
        sessions = self.sessions()
        last = sessions[-1].get("exit", "") if sessions else "not begun"
        if last != RUNNING or locks.is_taken(self.path):
            return str(last)
        return self.silent_end()

    def silent_end(self) -> str:
        """What is said of a session whose process is gone and has not told how it ended."""
        step = self.latest_step()
        return "its process is gone; " + ("nothing saved" if step is None else f"saved step {step}")

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`.

        Raises:
            FileError: it cannot be written.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error

    def _sync_metrics(self) -> None:
        """Wait until the metrics are on the disk: what says that they were written comes after."""
        path = self.path / "metrics.jsonl"
        try:
            if path.exists():
                durable.sync_file(path)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error

    def drop_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that the checkpoint at `step` has not made yet.

        A test line goes too: it is the last of a run, and a run that goes on writes it again.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in _lines(path):
            try:
                found = files.from_json(line, finite=False)
                if found["step"] <= step and found["split"] != "test":
                    kept.append(line)
            except (ValueError, TypeError, KeyError):
                break  # a line half written when the process died: nothing good follows it
        durable.write_text(path, "".join(f"{line}\n" for line in kept))

    def _pointed(self, name: str) -> Path | None:
        """The checkpoint that a pointer file names; None if there is no such pointer."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            target = files.text(path, MOST_POINTER, errors="replace").strip()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        if not STEP_NAME.fullmatch(target):
            raise CheckpointError(f"{path}: expected a name like step-00000100, got {target!r}")
        return self.path / "checkpoints" / target

    def checkpoint_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.path / "checkpoints" / _step_name(step)

    def latest(self) -> Path | None:
        """The last checkpoint."""
        return self._pointed("last")

    def best(self) -> Path | None:
        """The checkpoint that was best on the validation split."""
        return self._pointed("best")

    def latest_step(self) -> int | None:
        """The step of the last checkpoint."""
        path = self.latest()
        return None if path is None else int(path.name.removeprefix("step-"))

    def save(self, model: Weighted, spec: RunSpec, progress: Progress) -> None:
        """A checkpoint of this step, then the pointers, then older ones are removed.

        Raises:
            DivergedError: a weight or a moment is not finite; nothing is written.
            FileError: it cannot be written; the last checkpoint is as it was.
        """
        weights, moments = model.parameters(), model.optimizer_state()
        if bad := not_finite({**weights, **moments}):
            raise DivergedError(
                f"train: expected finite numbers, got NaN or infinity in {bad[0]} at step "
                f"{progress.step}; "
                f"the last good checkpoint is {self.latest()}; try a smaller --lr or --clip 1"
            )
        folder = self.checkpoint_of(progress.step)
        name = folder.name
        self._sync_metrics()
        checkpoint.write(folder, spec, weights, moments, progress)
        durable.write_text(self.path / "last", f"{name}\n")
        if progress.best is not None and progress.best.step == progress.step:
            durable.write_text(self.path / "best", f"{name}\n")
        self._prune(spec.report.keep)

    def _prune(self, keep: int) -> None:
        """Remove checkpoints but the latest `keep`, the best and the last.

        One that cannot be removed is told of, and stays: the run itself is saved.
        """
        found = sorted(
            path for path in (self.path / "checkpoints").iterdir() if STEP_NAME.fullmatch(path.name)
        )
        needed = {self.best(), self.latest(), *found[-keep:]}
        for path in found:
            if path not in needed:
                try:
                    checkpoint.remove(path)
                except OSError as error:
                    warnings.warn(f"{path}: cannot be removed: {error.strerror}", stacklevel=2)

    def restore(self, model: Weighted) -> Progress:
        """Put the last checkpoint into a model that has begun training; a new run starts at 0."""
        path = self.latest()
        if path is None:
            self.drop_metrics_after(-1)
            return Progress()
        found = checkpoint.read(path)
        if found.moments is None:
            raise CheckpointError(f"{path}: no optimizer state; it cannot be resumed")
        model.load_parameters(found.params)
        model.load_optimizer_state(found.moments, found.progress.step)
        self.drop_metrics_after(found.progress.step)
        if found.progress.best is not None:  # the process may have died between the two pointers
            durable.write_text(self.path / "best", f"{_step_name(found.progress.best.step)}\n")
        self._prune(found.spec.report.keep)  # or before it removed what is not needed any more
        return found.progress.model_copy(deep=True)

    def load_best(self) -> Checkpoint:
        """The checkpoint that was best on the validation split.

        Raises:
            CheckpointError: no step was validated yet, or it is damaged.
        """
        path = self.best()
        if path is None:
            raise CheckpointError(f"{self.path}: no best checkpoint; no step was validated yet")
        return checkpoint.read(path)

    def restore_best(self, model: Weighted) -> None:
        """Put the checkpoint that was best on the validation split into a model."""
        model.load_parameters(self.load_best().params)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run as done with its final result."""
        self._sync_metrics()
        self.write_json("DONE", dict(result))


def taken(path: Path) -> bool:
    """Whether a path holds more than a lock, a first file never finished, and file managers' own.

    Raises:
        OSError: it cannot be looked into.
    """
    if not path.exists():
        return False
    return not path.is_dir() or any(not _is_free(each) for each in path.iterdir())


def _is_free(path: Path) -> bool:
    """Whether a file may lie where a run begins."""
    if path.name in DESKTOP:
        return True
    begun = (LOCK, durable.partial_of(path.with_name("spec.json")).name)
    return path.name in begun and not path.is_symlink()


def _refuse_used(path: Path) -> None:
    """Raise ConfigError if a path is taken."""
    if not taken(path):
        return
    if (path / "spec.json").is_file():
        raise ConfigError(
            f"out: {path} exists; go on with: fwt train --resume {quote(path)}, "
            "or choose another folder with --out"
        )
    kind = "a folder that holds something else" if path.is_dir() else "a file"
    raise ConfigError(
        f"out: {path} exists: expected a new or an empty folder, got {kind}; "
        "choose another folder with --out"
    )


def _lines(path: Path) -> list[str]:
    """The lines of a file of metrics. Raises FileError if it cannot be read."""
    try:
        return files.text(path, files.MOST_LINES, errors="replace").splitlines()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def _step_name(step: int) -> str:
    """The name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def find_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint from whatever a user may name: a run, a checkpoint folder or a model file.

    A run folder gives its best checkpoint, or the last if none was validated yet.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = checkpoint.settled(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; expected a run or a checkpoint")
    if path.is_dir() and not (path / checkpoint.MODEL_FILE).exists():
        folder = RunFolder(path)
        target = folder.best() or folder.latest()
        if target is None:
            raise CheckpointError(f"{path}: neither a checkpoint nor a run with one")
        path = target
    return checkpoint.read(path)
