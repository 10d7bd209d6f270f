"""Jobs for training: new runs from settings, and a run that is there with what may change of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwt import backends, data, tasks
from fwt.fwcore.cells import presets
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.frozen import differences
from fwt.fwcore.spec import RunSpec, Stage
from fwt.fwcore.storage.runs import RunFolder, default_path
from fwt.jobs import Job, Revision
from fwt.lists import points
from fwt.settings import check_model, control_fields, layer, resolve
from fwt.tasks.base import Task
from fwt.tasks.recipe import merge

LENGTH = ("epochs", "steps")


@dataclass(frozen=True)
class Place:
    """Where a run is trained, what its data and its folder are; none of it is part of the spec.

    Attributes:
        backend: a name of `fwt.backends.BACKENDS`, or `auto`.
        device, memory: see `fwt.backends.contract.Backend.compile`.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.
        out: the folder of a new run, of several the folder of theirs; None names one in `runs_dir`.
        runs_dir: the folder of runs.
    """

    backend: str = "auto"
    device: str = "auto"
    memory: str = "auto"
    data_dir: Path | None = None
    out: Path | None = None
    runs_dir: Path = Path("runs")


def new_jobs(
    task: str | None,
    model: str | None,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    control: str | None,
    place: Place,
) -> list[Job]:
    """New runs from settings: one, or one for each combination of the lists in them.

    Args:
        task: the task's name; None takes that of the settings.
        model: the model's name; None takes that of the settings, or the task's default.
        config: settings by table, above the recipe.
        flags: settings by table, above `config`.
        control: `auto`, `multi-level` or `flat`; None takes the recipe's.
        place: where the runs are trained.

    Raises:
        ConfigError: an unknown name, key or value; a combination that is there twice.
        DataError: the dataset asked for cannot be had.
    """
    task = flags.get("task", {}).get("kind") or task or config.get("task", {}).get("kind")
    if task is None:
        raise ConfigError("--task: expected a task, got none; e.g. --task retrieval")
    combinations = points(merge(config, flags))
    first = merge(flags, layer(combinations[0].items(), "lists"))
    run = resolve(task, model, config, first, control, place.data_dir)
    jobs: dict[str, Job] = {}
    for point in combinations:
        settings = merge(run.spec.json_data(), layer(point.items(), "lists"))
        spec = RunSpec.parse(settings, "settings") if point else run.spec
        words = [f"{path.rpartition('.')[2]}={value}" for path, value in point.items()]
        label = " ".join(words)
        if spec.digest() in jobs:
            raise ConfigError(f"lists: expected each combination once, got {label} again")
        jobs[spec.digest()] = _new_job(spec, run.model, label, run.task, place)
    if place.out is not None and len(jobs) == 1:
        return [replace(job, folder=place.out) for job in jobs.values()]
    return list(jobs.values())


def _new_job(spec: RunSpec, model: str, label: str, task: Task, place: Place) -> Job:
    backend = backends.named(place.backend)
    path = default_path(place.runs_dir, spec, model, backend)
    folder = path if place.out is None else place.out / path.name
    data_dir = data.folder_for(task.spec, place.data_dir)
    return Job(spec, backend, folder, place.device, place.memory, data_dir, label=label, task=task)


def reopen(
    path: Path, asked: Mapping[str, Any], name: str | None, control: str | None, place: Place
) -> Job:
    """A run that is there, with the length and the reports that are asked for.

    Args:
        path: its folder.
        asked: settings given beside `--resume`; but for length and reports each must be what the
            run has.
        name: `--model`, or None.
        control: `--control`, or None.
        place: where the run goes on.

    Raises:
        ConfigError: another setting differs from the run's, every one is named; or the run has
            made all updates of its new length already.
    """
    folder = RunFolder.open(path)
    spec = folder.read_spec()
    core = spec.model.core
    if name is not None:
        asked = merge({"model": {"core": presets()[check_model(name)]}}, asked)
    task = data.load(tasks.parse(spec.task, str(path / "spec.json")), place.data_dir)
    if control is not None:
        fields = control_fields(control, core.kind, task.control)
        asked = merge(asked, {"model": {"core": fields}})
    train = asked.get("train", {})
    length = {key: train[key] for key in LENGTH if key in train}
    fixed = {key: value for key, value in asked.items() if key != "report"}
    fixed["train"] = {key: value for key, value in train.items() if key not in LENGTH}
    faults = differences(spec.json_data(), fixed)
    if faults:
        raise ConfigError(f"resume: {path} has another spec: {'; '.join(faults)}")
    free = {"train": length, "report": asked.get("report", {})}
    wanted = RunSpec.parse(merge(spec.json_data(), free), "settings")
    step = folder.latest_step() or 0
    if wanted.train != spec.train:
        wanted = _lengthened(spec, wanted, step, task, path)
    revision = None if wanted == spec else Revision(spec, step)
    return Job(
        wanted,
        backends.named(place.backend),
        path,
        place.device,
        place.memory,
        place.data_dir,
        revision=revision,
        task=task,
    )


def _lengthened(spec: RunSpec, wanted: RunSpec, step: int, task: Task, path: Path) -> RunSpec:
    """The new spec with the length that the run has had until now.

    Raises:
        ConfigError: the run is not to make more updates than it has made.
    """
    total = wanted.train.total_steps(len(task.split("train")))
    if total <= step:
        given = " ".join(
            f"{key}={value}" for key in LENGTH if (value := getattr(wanted.train, key))
        )
        raise ConfigError(
            f"resume: {path} has made {step} updates: expected a longer run, got {given}, which is "
            f"{total} updates; give more, or train a new run"
        )
    if step == 0:
        return wanted
    earlier = tuple(stage for stage in spec.train.earlier if stage.until < step)
    # of two changes at one step, only the first length was ever used
    kept = tuple(stage for stage in spec.train.earlier if stage.until == step)
    held = kept or (Stage(until=step, epochs=spec.train.epochs, steps=spec.train.steps),)
    train = wanted.train.model_copy(update={"earlier": (*earlier, *held)})
    return wanted.model_copy(update={"train": train})
