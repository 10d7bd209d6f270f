"""What must hold of a run folder after a process was killed in it, and of a run that is done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fwt.fwcore.errors import FwtError
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.runs import STEP_NAME, RunFolder

CLOCK = ("time", "elapsed_s", "examples_per_s")  # of a line of metrics
TIMES = ("elapsed_s", "reported_s")  # of a checkpoint's progress
JSON_FILES = ("spec.json", "run.json", "DONE")
POINTERS = ("last", "best")
UNFINISHED = re.compile(r"\.(.+)\.(partial|old)")


def faults_between(run: Path) -> list[str]:
    """What is wrong with a run that a process was killed in.

    Every file that has its name must be whole, but the last line of the metrics, and the last
    checkpoint must load; beside them may lie what was being written, under names that say so.
    """
    return _attempts(
        lambda: _check_files(run),
        lambda: _check_checkpoints(run),
        lambda: _check_lines(run, half_allowed=True),
        lambda: _check_pointers(run),
    )


def faults_at_end(run: Path, whole: Path) -> list[str]:
    """What is wrong with a run that was gone on with, beside the one that was left alone.

    Nothing may differ but times and `run.json`, whose sessions differ; nothing may lie about.
    """
    faults = faults_between(run)
    faults += _attempts(lambda: _check_lines(run, half_allowed=False))
    one, other = contents(run), contents(whole)
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            faults.append(f"{name}: stray")
        elif name not in one:
            faults.append(f"{name}: missing")
        elif one[name] != other[name]:
            faults.append(f"{name}: differs from the run that was left alone")
    return faults


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run by name, without times; of `run.json` that it is there.

    The empty file of the lock is no content.
    """
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name == ".lock":
            continue
        found[name] = _timeless(path)
    return found


def _timeless(path: Path) -> Any:
    """What is compared of a file."""
    try:
        if path.name == "run.json":
            return "there"
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            return [{key: row[key] for key in row if key not in CLOCK} for row in rows]
        if path.name == "DONE":
            return {**json.loads(path.read_text()), "train_s": None}
        if path.name == "state.json":
            data = json.loads(path.read_text())
            data["progress"] |= dict.fromkeys(TIMES)
            data["sha256"].pop("state.json")
            return data
    except ValueError as error:
        return f"does not parse: {error}"
    return path.read_bytes()


def _attempts(*checks: Callable[[], list[str]]) -> list[str]:
    """The faults of several checks; one that cannot go on is a fault."""
    found = []
    for check in checks:
        try:
            found += check()
        except (FwtError, OSError, ValueError) as error:
            found.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return found


def _check_files(run: Path) -> list[str]:
    known = {*JSON_FILES, *POINTERS, "metrics.jsonl", "checkpoints", ".lock"}
    faults = []
    for path in run.iterdir() if run.is_dir() else ():
        unfinished = UNFINISHED.fullmatch(path.name)
        if path.name not in known and not (unfinished and unfinished[1] in known):
            faults.append(f"{path.name}: a name that no run has")
        if path.name in JSON_FILES:
            checkpoint.read_object(path)
    if (run / "spec.json").exists():
        RunFolder.open(run).read_spec()
    return faults


def _check_checkpoints(run: Path) -> list[str]:
    folder = run / "checkpoints"
    faults = []
    for path in folder.iterdir() if folder.is_dir() else ():
        unfinished = UNFINISHED.fullmatch(path.name)
        if STEP_NAME.fullmatch(path.name):
            faults += _attempts(lambda path=path: _whole(path))  # type: ignore[misc]
        elif not (unfinished and STEP_NAME.fullmatch(unfinished[1])):
            faults.append(f"checkpoints/{path.name}: a name that no checkpoint has")
    return faults


def _whole(path: Path) -> list[str]:
    found = checkpoint.read(path)
    return [] if found.moments is not None else [f"{path.name}: no moments"]


def _check_lines(run: Path, half_allowed: bool) -> list[str]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    for line in lines:
        json.loads(line)
    return [f"metrics.jsonl: ends in half a line, {rest!r}"] if rest and not half_allowed else []


def _check_pointers(run: Path) -> list[str]:
    folder = RunFolder(run)
    for path in (folder.latest(), folder.best()):
        if path is not None:
            checkpoint.read(path)
    return []
