"""A run as plain data: what was asked, what came of it, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fwt import tasks
from fwt.fwcore import model, params
from fwt.fwcore.frozen import leaves
from fwt.fwcore.paths import quote
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import DONE, RUNNING, RunFolder
from fwt.plots.curves import Run
from fwt.tasks.base import Task
from fwt.tasks.recipe import recipe

TABLES = ("task", "model", "train", "report")
APART = ("train.seed",)  # what sets runs of one recipe apart
DEFAULT = "auto"  # a default that a run replaces by what it found


def facts(run: Run, task: Task, whole: RunSpec) -> dict[str, Any]:
    """What a run's folder says of it.

    Args:
        run: the run.
        task: its task.
        whole: what the recipe of its task, model and size would have it be.

    Returns:
        Its name, state, errors in percent beside the published one, settings with those that differ
        from the recipe, and sessions as `run.json` has them, none running whose process is gone.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    spec, folder = run.spec, RunFolder(run.path)
    sessions = list((folder.read_json("run.json") or {}).get("sessions") or [])
    done = folder.read_json("DONE") or _told(run, sessions)
    state = DONE if done is not None else folder.state()
    if sessions and sessions[-1].get("exit") == RUNNING:
        sessions[-1] = {**sessions[-1], "exit": state}
    return {
        "run": str(run.path),
        "model": run.name,
        "size": spec.model.core.size,
        "seed": spec.train.seed,
        "backend": run.backend,
        "task": task.spec.kind,
        "dataset": task.dataset,
        "recipe": spec.recipe,
        "parameters": params.count(model.parameters(spec.model)),
        "state": state,
        **(_unfinished(run, folder, task) if done is None else _finished(done)),
        "published_pct": task.published.get(run.name, {}).get(spec.model.core.size),
        "chance_pct": task.chance_error,
        "settings": _settings(spec),
        "changed": changed(spec, whole, run.name),
        "sessions": [_session(each) for each in sessions],
    }


def _told(run: Run, sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What DONE would say, of a checkpoint that ships with its run's metrics but without it."""
    last = run.lines[-1] if run.lines else {}
    if last.get("split") != "test" or not sessions or sessions[-1].get("exit") != DONE:
        return None
    val = _best(run)
    if val is None:
        return None
    return {
        "best_step": last["best_step"],
        "steps": last["step"],
        "train_s": last["elapsed_s"],
        "val": val,
        "test": last,
    }


def _best(run: Run) -> Mapping[str, Any] | None:
    """The line of the best validation."""
    judged = [line for line in run.lines if line["split"] == "val"]
    return min(judged, key=lambda line: (line["error_pct"], line["loss"]), default=None)


def _finished(done: Mapping[str, Any]) -> dict[str, Any]:
    val, test = done["val"], done["test"]
    return {
        "step": done["steps"],
        "steps": done["steps"],
        "best_step": done["best_step"],
        "train_s": done["train_s"],
        "val": {key: val[key] for key in ("error_pct", "loss")},
        "test": {key: test[key] for key in ("error_pct", "loss", "examples")},
    }


def _unfinished(run: Run, folder: RunFolder, task: Task) -> dict[str, Any]:
    """The same of a run that is not done: its best validation so far, and no test error."""
    best = _best(run)
    return {
        "step": folder.latest_step() or 0,
        "steps": run.spec.train.total_steps(len(task.split("train"))),
        "best_step": None if best is None else best["step"],
        "train_s": run.lines[-1]["elapsed_s"] if run.lines else 0.0,
        "val": best and {key: best[key] for key in ("error_pct", "loss")},
        "test": None,
    }


def _settings(spec: RunSpec) -> dict[str, Any]:
    """All settings by dotted key; options that the task did not have then are its defaults."""
    data = spec.json_data()
    data["task"] = tasks.parse(spec.task).json_data()
    return dict(leaves({table: data[table] for table in TABLES}))


def changed(spec: RunSpec, whole: RunSpec, name: str) -> list[dict[str, Any]]:
    """The settings that are not the recipe's.

    Args:
        spec: the run's.
        whole: the recipe's, but that its task is the run's.
        name: the model's name.
    """
    have, base = _settings(spec), _settings(whole)
    kind = str(spec.task["kind"])
    _, own = recipe(kind, name, spec.model.core.size)
    usual = tasks.parse({**own.get("task", {}), "kind": kind}).json_data()
    base |= {f"task.{key}": value for key, value in usual.items()}
    return [
        {"setting": key, "recipe": base.get(key), "run": have.get(key)}
        for key in have | base
        if have.get(key) != base.get(key) and base.get(key) != DEFAULT and key not in APART
    ]


def _session(found: Mapping[str, Any]) -> dict[str, Any]:
    """A session with its arguments as the command they were."""
    words = [str(word) for word in found.get("argv") or []]
    rest = {key: value for key, value in found.items() if key != "argv"}
    return {"command": " ".join(map(quote, ["fwt", *words])), **rest}
