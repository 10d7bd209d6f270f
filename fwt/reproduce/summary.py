"""What is kept of a run: a line of `results/<task>.json`, from the run's folder.

The settings are kept whole, so that what a run was can be told after every change of a recipe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, field_validator

from fwt import tasks
from fwt.fwcore import model
from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.frozen import Frozen, Items
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import files
from fwt.fwcore.storage.checkpoint import read_object
from fwt.fwcore.storage.durable import make_folder, write_text
from fwt.fwcore.storage.runs import RunFolder

POINTS = 100  # of a learning curve
# flags of a command that say where files are, not what is learned
PLACES = ("--runs-dir", "--data-dir", "--out", "-o", "--scheduler", "--storage", "--workers")
VERSIONS = ("fwt", "torch", "mlx", "numpy", "python")

Key = tuple[str, str, int]


class Record(Frozen):
    """What is kept of a run.

    Attributes:
        model: the model's name on the command line.
        backend, device, memory, kernel, processor: where it ran; "" if not known.
        dataset: the data that was really used.
        spec: its settings; task options that came later stand at their defaults.
        parameters: how many numbers the model learns.
        test_error_pct, test_examples: of the best validated checkpoint, looked at once at the
            end; None if the run diverged.
        val_error_pct: of the same checkpoint.
        best_step: its updates.
        steps: updates of the run.
        train_s: seconds of training, without evaluation; of all members together.
        members: runs that trained as one program with it in its last session, itself too.
        failure: why it diverged.
        commit, command, versions: what made it.
        started: UTC, ISO 8601.
        curve: updates and validation error in percent.
    """

    model: str
    backend: str
    device: str
    memory: str = ""
    kernel: str = ""
    processor: str = ""
    dataset: str
    spec: RunSpec
    parameters: int
    test_error_pct: float | None
    test_examples: int | None
    val_error_pct: float | None
    best_step: int | None
    steps: int
    train_s: float
    members: int = Field(default=1, ge=1)
    failure: str | None = None
    commit: str | None
    command: str
    versions: dict[str, str]
    started: str = ""
    curve: Items[Annotated[tuple[int, float], Strict(False)]] = ()

    @field_validator("spec")
    @classmethod
    def _with_later_options(cls, spec: RunSpec) -> RunSpec:
        return spec.model_copy(update={"task": tasks.parse(spec.task).json_data()})

    @property
    def key(self) -> Key:
        """What names the run: backend, settings, seed."""
        return self.backend, self.spec.run_digest(), self.spec.train.seed

    @property
    def size(self) -> int:
        """R."""
        return self.spec.model.core.size

    @property
    def minutes(self) -> float:
        """Of training: its share, where several runs trained together."""
        return self.train_s / self.members / 60

    @property
    def seed(self) -> int:
        """The seed."""
        return self.spec.train.seed


def parameters_of(spec: RunSpec) -> int:
    """How many numbers a model learns."""
    return sum(math.prod(param.shape) for param in model.parameters(spec.model))


def command_of(argv: Sequence[str]) -> str:
    """A run's command without the places of its files, which mean nothing elsewhere."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in PLACES:
            next(words, None)
        elif word.partition("=")[0] not in PLACES:
            kept.append(word)
    return " ".join(["fwt", *kept])


def thinned(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    """At most so many points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    places = [round(at * (len(points) - 1) / (most - 1)) for at in range(most)]
    return [points[place] for place in places]


def _curve(folder: Path) -> list[tuple[int, float]]:
    """Updates and validation error (percent) of a run's metrics; [] if it diverged at once."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        texts = files.text(path, files.MOST_LINES).splitlines()
        lines = [files.from_json(line, finite=False) for line in texts]
        points = [(line["step"], line["error_pct"]) for line in lines if line["split"] == "val"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return thinned(points)


def of_folder(path: Path) -> Record:
    """What is kept of a run that has ended.

    Args:
        path: its folder, or one that has its `spec.json`, `run.json` and `metrics.jsonl`.

    Raises:
        ConfigError: there is no run.
        CheckpointError: it has not ended, or a file is damaged.
    """
    folder = RunFolder.open(path)
    sessions = folder.sessions()
    done = folder.read_json("DONE")
    if not sessions:
        raise CheckpointError(f"{path}: expected sessions in run.json, got none")
    failure = str(sessions[-1].get("exit", ""))
    if done is None and not failure.startswith("DivergedError"):
        raise CheckpointError(f"{path}: expected a run that has ended, got one that has not")
    return _record(folder, sessions, done, failure)


def _record(
    folder: RunFolder, sessions: list[dict[str, Any]], done: dict[str, Any] | None, failure: str
) -> Record:
    spec, last = folder.read_spec(), sessions[-1]
    curve = _curve(folder.path)
    result: dict[str, Any] = {
        "test_error_pct": None,
        "test_examples": None,
        "val_error_pct": None,
        "best_step": None,
        "steps": curve[-1][0] if curve else 0,
        "train_s": 0.0,
        "failure": failure,
    }
    if done is not None:
        result = _result(folder.path / "DONE", done)
    facts = {
        "model": last.get("model", ""),
        "dataset": last.get("dataset", ""),
        "spec": spec.json_data(),
        "parameters": parameters_of(spec),
        "commit": last.get("commit"),
        "command": command_of(sessions[0].get("argv", [])),
        "versions": {name: str(last[name]) for name in VERSIONS if name in last},
        "started": sessions[0].get("started", ""),
        "members": last.get("members", 1),
        "curve": curve,
    }
    places = ("backend", "device", "memory", "kernel", "processor")
    where = {name: str(last.get(name) or "") for name in places}
    return Record.parse({**facts, **where, **result}, str(folder.path))


def _result(path: Path, done: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's DONE."""
    try:
        return {
            "test_error_pct": done["test"]["error_pct"],
            "test_examples": done["test"]["examples"],
            "val_error_pct": done["val"]["error_pct"],
            "best_step": done["best_step"],
            "steps": done["steps"],
            "train_s": done["train_s"],
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected the result of a run, got none: {error!r}"
        ) from error


def load(path: Path) -> list[Record]:
    """The records in a file; [] if there is none.

    Raises:
        CheckpointError: it is damaged.
        ConfigError: a record is none.
    """
    if not path.exists():
        return []
    found = read_object(path).get("runs")
    if not isinstance(found, list):
        raise CheckpointError(f"{path}: expected a list of runs, got runs={found!r}")
    return [Record.parse(each, f"{path}: run {at}") for at, each in enumerate(found)]


def merged(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Both, in a fixed order; a new run takes the place of an old one with its key."""
    found = {record.key: record for record in (*old, *new)}
    return sorted(found.values(), key=_order)


def _order(record: Record) -> tuple[Any, ...]:
    return record.model, record.size, record.dataset, record.backend, *record.key[1:]


def store(path: Path, records: Sequence[Record]) -> None:
    """Write a file of records, one a line, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    lines = ",\n".join(json.dumps(record.json_data()) for record in records)
    make_folder(path.parent)
    write_text(path, f'{{"runs": [\n{lines}\n]}}\n')


def add(path: Path, new: Iterable[Record]) -> list[Record]:
    """Merge records into a file, and return all of them."""
    found = merged(load(path), new)
    store(path, found)
    return found
