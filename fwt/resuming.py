"""A run that is there as a job to go on with: what may change of it, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fwt import tasks
from fwt.data import load
from fwt.execute.alone import Job, Revision
from fwt.fwcore.cells import presets
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.frozen import differences
from fwt.fwcore.spec import RunSpec, Stage
from fwt.fwcore.storage.runs import RunFolder
from fwt.settings import check_model, control_fields, name_of
from fwt.tasks.base import Task
from fwt.tasks.recipe import merge

LENGTH = ("epochs", "steps")


def reopened(
    path: Path,
    asked: Mapping[str, Any],
    name: str | None,
    control: str | None,
    data_dir: Path | None,
) -> Job:
    """A run that is there, with the length and the reports that are asked for.

    Args:
        path: its folder.
        asked: settings given beside `--resume`; but for length and reports each must be what the
            run has.
        name: `--model`, or None.
        control: `--control`, or None.
        data_dir: `--data-dir`.

    Raises:
        ConfigError: another setting differs from the run's, every one is named; or the run has
            made all updates of its new length already.
    """
    folder = RunFolder.open(path)
    spec = folder.read_spec()
    core = spec.model.core
    if name is not None:
        asked = merge({"model": {"core": presets()[check_model(name)]}}, asked)
    task = load(tasks.parse(spec.task, str(path / "spec.json")), data_dir)
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
    return Job(wanted, name_of(core.json_data()), task, folder, revision)


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
