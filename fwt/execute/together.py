"""`fwt train` with lists: a run for each combination, all of them trained as one program."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwt import initial
from fwt.backends.contract import compile_population
from fwt.execute import alone
from fwt.execute.alone import Job, Place, Ready, Session
from fwt.execute.screen import Screen
from fwt.fwcore.errors import ConfigError, DivergedError, FwtError
from fwt.fwcore.paths import quote, show
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.descriptors import room_for
from fwt.fwcore.storage.runs import RunFolder, default_path, taken
from fwt.fwcore.training import launcher
from fwt.fwcore.training.loop import Hooks, Outcome, train_together
from fwt.settings import layer
from fwt.signals import StopFlag
from fwt.tasks.recipe import merge


@dataclass(frozen=True)
class Member:
    """One of the runs.

    Attributes:
        label: what sets it apart, such as `seed=3 lr=0.001`.
        setting: the same without the seed.
        job: the run.
    """

    label: str
    setting: str
    job: Job


def members_of(first: Job, points: Sequence[Mapping[str, Any]]) -> list[Member]:
    """The runs of all combinations, from that of the first.

    Raises:
        ConfigError: a value cannot be, or two runs would be the same.
    """
    found: dict[str, Member] = {}
    for point in points:
        data = merge(first.spec.json_data(), layer(point.items(), "lists"))
        spec = RunSpec.parse(data, "settings")
        words = [f"{path.rpartition('.')[2]}={value}" for path, value in point.items()]
        label = " ".join(words)
        if spec.digest() in found:
            raise ConfigError(f"lists: expected each combination once, got {label} again")
        setting = " ".join(word for word in words if not word.startswith("seed="))
        found[spec.digest()] = Member(label, setting, replace(first, spec=spec))
    return list(found.values())


def print_specs(members: Sequence[Member]) -> None:
    """The resolved specs on stdout (`--dry-run`)."""
    print(json.dumps({"members": [each.job.spec.json_data() for each in members]}, indent=1))


def _begun(
    stack: ExitStack, members: Sequence[Member], out: Path | None, root: Path, name: str
) -> list[RunFolder]:
    """New folders, named as those of lone runs and entered; none is left if one cannot be had.

    Raises:
        ConfigError: a folder holds something.
        FileError: one cannot be written.
    """
    paths = [default_path(root, each.job.spec, each.job.name, name) for each in members]
    paths = paths if out is None else [out / path.name for path in paths]
    there = [path for path in paths if taken(path)]
    if there:
        raise ConfigError(
            f"out: {len(there)} of {len(paths)} folders exist, the first is {there[0]}; go on with "
            f"each alone: fwt train --resume {quote(there[0])}, or choose another folder with --out"
        )
    begun: list[RunFolder] = []
    try:
        for path, each in zip(paths, members, strict=True):
            begun.append(stack.enter_context(RunFolder.create(path, each.job.spec)))
    except FwtError:
        for folder in begun:
            folder.discard()
        raise
    return begun


def ready(jobs: Sequence[Job], place: Place) -> Ready:
    """Backend, models and data of runs that are trained together; see `alone.ready`."""
    launcher.check_alone(f"train: {len(jobs)} runs")
    specs, job = [each.spec for each in jobs], jobs[0]
    backend = alone.trainer(job.spec, place, job.task, len(jobs))
    data = alone.splits(job)
    firsts = [initial.first_weights(spec) for spec in specs]
    made = compile_population(
        backend,
        [spec.model for spec in specs],
        [first.weights for first in firsts],
        device=place.device,
        dtype=job.spec.train.dtype,
        memory=place.memory,
    )
    facts = alone.session_facts(job, backend, made, firsts[0].notes)
    return Ready(backend.name, made, data, facts, job.spec.train.total_steps(len(data.train)))


def train_in(
    folders: Sequence[RunFolder],
    specs: Sequence[RunSpec],
    given: Ready,
    hooks: Hooks,
    stop_after: int | None = None,
) -> list[Outcome]:
    """Train runs in their folders, which must be entered."""
    with ExitStack() as stack:
        logs = [stack.enter_context(Session(folder, dict(given.facts))) for folder in folders]
        outcomes = train_together(given.model, specs, given.data, folders, hooks, stop_after)
        for log, outcome in zip(logs, outcomes, strict=True):
            log.reason = "done" if outcome else f"stopped after {stop_after} updates"
            if isinstance(outcome, DivergedError):
                log.failed(outcome)
    return outcomes


def run(
    members: Sequence[Member],
    place: Place,
    out: Path | None,
    root: Path,
    stop_after: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train all of them and return what is to be printed.

    Args:
        members: their specs differ in the lists' values alone.
        out: the folder for their folders; None names one under `root`.
        stop_after: see `fwt.fwcore.training.loop.train`.
        quiet: show no progress.
    """
    with ExitStack() as stack:
        stack.enter_context(room_for(len(members), f"train: {len(members)} runs together"))
        given = ready([each.job for each in members], place)
        folders = _begun(stack, members, out, root, given.backend)
        stop = stack.enter_context(StopFlag())
        alone.show_notes(given, quiet)
        screen = stack.enter_context(Screen(given.total, quiet))
        hooks = Hooks(on_metrics=screen.show, stop_signal=stop.read)
        specs = [each.job.spec for each in members]
        outcomes = train_in(folders, specs, given, hooks, stop_after)
    ended = zip(members, folders, outcomes, strict=True)
    return _summary(members, [_member(*each, given.facts, given.total) for each in ended])


def _member(
    member: Member, folder: RunFolder, outcome: Outcome, facts: Mapping[str, Any], total: int
) -> dict[str, Any]:
    """What is printed of a run: what `alone.summary` gives, its label, and why it diverged."""
    found: dict[str, Any] = {"done": False, "step": folder.latest_step(), "steps": total}
    if isinstance(outcome, DivergedError):
        found["diverged"] = str(outcome)
    elif outcome is not None:
        found = {"done": True, **outcome}
    return {"label": member.label, **alone.summary(member.job, folder, facts, found)}


def _summary(members: Sequence[Member], found: list[dict[str, Any]]) -> dict[str, Any]:
    """All runs, and the statistics of their test errors: of all, and of each setting's seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for member, each in zip(members, found, strict=True):
        groups.setdefault(member.setting, []).append(each)
    settings = [{"label": label, **_statistics(group)} for label, group in groups.items()]
    return {"members": found, "settings": settings, **_statistics(found)}


def _statistics(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many runs are done; mean and standard deviation (n - 1) of their test errors, in %."""
    errors = [each["test"]["error_pct"] for each in found if each["done"]]
    return {
        "n": len(errors),
        "mean": statistics.mean(errors) if errors else None,
        "sd": statistics.stdev(errors) if len(errors) > 1 else None,
    }


def print_result(members: Sequence[Member], result: dict[str, Any], as_json: bool) -> None:
    """The results on stdout: for people, a line for each run, or one JSON object.

    Raises:
        DivergedError: some diverged.
    """
    if as_json:
        print(json.dumps(result))
    else:
        _print_lines(members, result)
    lost = [each for each in result["members"] if "diverged" in each]
    if lost:
        raise DivergedError(
            f"{len(lost)} of {len(members)} runs diverged, {lost[0]['label']} in {lost[0]['run']}: "
            f"{lost[0]['diverged']}"
        )


def _print_lines(members: Sequence[Member], result: dict[str, Any]) -> None:
    job, width = members[0].job, max(len(each.label) for each in members)
    print(f"dataset   {job.task.dataset}")
    for each in result["members"]:
        if each["done"]:
            text = f"error {each['test']['error_pct']:6.2f}%"
        else:
            text = f"stopped at step {each['step']} of {each['steps']}"
            text = "diverged" if "diverged" in each else text
        print(f"{each['label']:{width}}  {text}  {show(each['run'])}")
    rows = [*result["settings"], {**result, "label": "all"}]
    some_share = 1 < len(result["settings"]) < len(members)
    for row in rows if some_share else rows[-1:]:
        if row["n"]:
            sd = "" if row["sd"] is None else f"  sd {row['sd']:.2f}%"
            print(f"{row['label']:{width}}  mean error {row['mean']:.2f}%{sd}  n = {row['n']}")
    known = alone.published(job)
    if known is not None:
        print(f"published {known:.2f}%")
