"""A sweep from its file to its result, as `fwt sweep` needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fwt import backends, data, tasks
from fwt.cli.options import Cluster
from fwt.cli.train import SPEC_FLAGS
from fwt.fwcore import limits
from fwt.fwcore.errors import BackendError, CheckFailed, ConfigError, DivergedError
from fwt.fwcore.frozen import differences
from fwt.fwcore.paths import quote, show
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, locks
from fwt.fwcore.storage.runs import default_path
from fwt.fwcore.training import launcher
from fwt.jobs import Job, Outcome, finished
from fwt.lists import whole_numbers
from fwt.settings import layer, resolve
from fwt.signals import StopFlag
from fwt.sweep import plan as plans
from fwt.sweep import result
from fwt.sweep.plan import MODEL, SEED, Group, Language, Plan, Point, Setting

NAMES = {name: path for name, path in SPEC_FLAGS.items() if name != "seeds"}
PACKAGES = ("distributed", "optuna")
MARK_FILE = "sweep.json"  # what the sweep of a folder is


@dataclass(frozen=True)
class Request:
    """What to sweep, and where its runs are.

    Attributes:
        file: the sweep file.
        device, memory, data_dir: see `fwt.execute.alone.Place` and `fwt.settings.resolve`.
        runs_dir: the folder of all runs; the sweep's own is in `sweeps/<name>` below it.
        storage: URL of a search's database; None takes the file's, or SQLite in that folder.
    """

    file: Path
    device: str
    memory: str
    data_dir: Path | None
    runs_dir: Path
    storage: str | None


def check_installed() -> None:
    """Refuse before anything is read. Raises BackendError if a package is missing."""
    gone = [name for name in PACKAGES if not _there(name)]
    if gone:
        raise BackendError(
            f"sweep: package {' and '.join(gone)} is not installed; pip install 'fwt[sweep]'"
        )


def _there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # one that does not start
        return False


class Sweep:
    """A sweep file with all that it names found: task, data, backend, runs.

    Raises:
        ConfigError: a name or a value cannot be.
        FileError: the file, or data that it needs, is missing.
    """

    def __init__(self, request: Request, cluster: Cluster) -> None:
        file = plans.read(request.file)
        self.request, self.cluster, self.file = request, cluster, file
        self.backend = backends.named(file.backend)
        load = cache(data.load)

        def resolved(model: str | None, base: Point, point: Point) -> tuple[RunSpec, str]:
            """By the layers of `fwt train`."""
            layers = layer(base.items(), "sweep: base"), layer(point.items(), "sweep: axes")
            run = resolve(file.task, model, *layers, file.control, request.data_dir, load)
            return run.spec, run.name

        self.plan = Plan(file, Language(NAMES, _seeds, resolved))
        self.folder = request.runs_dir / "sweeps" / file.name
        self.on_gpu = self._on_gpu()
        self.together = self.on_gpu if file.population == "auto" else file.population

    def _on_gpu(self) -> bool:
        """Whether the runs go to a GPU, as far as this process can know."""
        device = self.request.device
        if device == "auto" and self.cluster.scheduler is None:
            device = backends.load(self.backend).devices()[0]
        return device not in ("auto", "cpu")

    @property
    def workers(self) -> int:
        """How many processes are started here."""
        if self.cluster.workers is not None:
            return self.cluster.workers
        return 1 if self.on_gpu else max(1, limits.cores() // self.cluster.threads)

    def jobs_of(self, group: Group, setting: Setting) -> tuple[Job, ...]:
        """The jobs of a setting, one for each seed; paths are absolute, for workers elsewhere."""
        request = self.request
        folders = (
            data.folder_for(tasks.parse(spec.task), request.data_dir) for spec in setting.specs
        )
        root = request.runs_dir.resolve()
        return tuple(
            Job(
                spec,
                self.backend,
                request.device,
                request.memory,
                default_path(root, spec, group.model, self.backend),
                folder and folder.resolve(),
            )
            for spec, folder in zip(setting.specs, folders, strict=True)
        )

    def mark(self) -> dict[str, Any]:
        """What may not change under one name."""
        file = self.file
        search = file.search and file.search.json_data()
        kept = {key: v for key, v in (search or {}).items() if key not in ("trials", "storage")}
        return {
            "task": file.task,
            "backend": self.backend,
            "control": file.control,
            "base": self.plan.base,
            "search": kept,
        }

    def check_name(self) -> None:
        """Refuse a sweep whose name another one has. Raises ConfigError."""
        path, mark = self.folder / MARK_FILE, self.mark()
        have = checkpoint.read_object(path) if path.exists() else mark
        faults = differences(have, mark) + differences(mark, have)
        if faults:
            raise ConfigError(
                f"sweep: {self.folder} is of another sweep: {faults[0]}; give this one another name"
            )

    def label(self, group: Group, setting: Setting, job: Job) -> str:
        """What a run is called in the table."""
        words = (group.label, setting.label, f"seed={job.spec.train.seed}")
        return " ".join(word for word in words if word)

    def command(self, group: Group, setting: Setting) -> str:
        """`fwt train` with a setting; its seed is left to the user."""
        words = ["fwt", "train", "--backend", self.backend, "--task", self.file.task]
        words += ["--model", group.model]
        words += ["--control", self.file.control] if self.file.control else []
        lengths = {"train.steps", "train.epochs"}
        below = self.plan.base
        if lengths & setting.point.keys():  # as `fwt.tasks.recipe.merge` has it
            below = {path: value for path, value in below.items() if path not in lengths}
        flags = {path: name for name, path in NAMES.items()}
        for path, value in (below | setting.point).items():
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            if path in (MODEL, SEED):
                continue
            if path in flags and plain:
                words += [f"--{flags[path].replace('_', '-')}", str(value)]
            else:
                words += ["--set", f"{path}={json.dumps(value)}"]
        return " ".join(map(quote, words))


def _seeds(text: str) -> list[int]:
    """`0-2` as numbers. Raises ConfigError."""
    found = whole_numbers("seed", text)
    return found if isinstance(found, list) else [found]


def sweep(request: Request, cluster: Cluster, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Plan, run, and print what was found.

    Raises:
        CheckFailed: a run failed for another reason than divergence.
        DivergedError: every setting of a group diverged.
        InUseError: another process runs the sweep.
        Interrupted: a signal came; what ran was saved.
    """
    found = Sweep(request, cluster)
    lines = plan_lines(found)
    if dry_run:
        print(json.dumps(plan_data(found)) if as_json else "\n".join(lines))
        return
    launcher.check_alone("sweep")
    if not quiet:
        print("\n".join(lines), file=sys.stderr, flush=True)
    with locks.held(found.folder, "sweep", "wait for it, or give this one another name"):
        found.check_name()
        searches = _searches(found)
        result.write(found.folder / MARK_FILE, found.mark())
        tried = _run(found, searches, quiet)
        data = _result(found, tried)
        result.write(found.folder / "summary.json", data)
    if as_json:
        print(json.dumps(data))
    else:
        for line in result_lines(found, data):
            print(line)
    _check([outcome for each in tried.values() for one in each for outcome in one.outcomes], data)


def _grid_jobs(found: Sweep) -> list[Job]:
    """The jobs that are known before anything runs."""
    return [
        job
        for group in found.plan.groups
        for setting in group.settings
        for job in found.jobs_of(group, setting)
    ]


def plan_data(found: Sweep) -> dict[str, Any]:
    """What will run, as JSON data."""
    plan, search = found.plan, found.file.search
    jobs = _grid_jobs(found)
    return {
        "name": found.file.name,
        "backend": found.backend,
        "runs": plan.runs,
        "done": sum(finished(job) is not None for job in jobs),
        "population": found.together,
        "search": search and {**search.json_data(), "storage": None},
        "groups": [
            {
                "label": group.label,
                "parameters": group.parameters,
                "tried": _budget(found, group),
                "settings": [setting.values for setting in group.settings],
            }
            for group in plan.groups
        ],
        "specs": [job.spec.json_data() for job in jobs],
    }


def _budget(found: Sweep, group: Group) -> int:
    """How many settings of a group are tried."""
    return found.file.search.trials if found.file.search else len(group.settings)


def plan_lines(found: Sweep) -> list[str]:
    """What will run, for people."""
    file, plan, request = found.file, found.plan, found.request
    data, seeds = plan_data(found), max(1, len(plan.seeds))
    base = " ".join(f"{path}={value}" for path, value in plan.base.items()) or "the recipes'"
    lines = [
        f"sweep     {file.name}: {file.task} on {found.backend}, device {request.device}",
        f"settings  {base}",
    ]
    width = max(len(group.label) for group in plan.groups)
    for group in plan.groups:
        size = "differ" if group.parameters is None else f"{group.parameters:,}"
        tries = _budget(found, group)
        lines.append(
            f"  {group.label:{width}}  parameters {size}, {tries} settings x {seeds} seeds"
        )
    how = "every setting of the grid"
    if file.search is not None:
        one = file.search
        how = f"{one.sampler}, {one.trials} trials in batches of {one.batch}, seed {one.seed}"
    left = "" if file.search else f", {data['done']} of them ended before"
    why = "asked for" if file.population != "auto" else "a GPU" if found.on_gpu else "no GPU known"
    where = found.cluster.scheduler or f"{found.workers} processes here"
    return [
        *lines,
        f"budget    the same for each of {len(plan.groups)} groups: {how}",
        f"runs      {plan.runs}{left}; {where}, {found.cluster.threads} threads each",
        f"together  {'runs of one shape as one program' if found.together else 'no'} ({why})",
        f"chosen by {result.OBJECTIVE}",
        f"folder    {found.folder}",
    ]


def _run(found: Sweep, searches: Mapping[str, Any], quiet: bool) -> dict[str, list[result.Tried]]:
    """Run all of it: group -> its settings and how they ended."""
    from fwt.execute import batch
    from fwt.execute.cluster import Engine
    from fwt.execute.progress import Progress
    from fwt.sweep.drive import Course, conduct

    labels: dict[Path, str] = {}

    def jobs_of(group: Group, setting: Setting) -> tuple[Job, ...]:
        jobs = found.jobs_of(group, setting)
        labels.update({job.folder: found.label(group, setting, job) for job in jobs})
        return jobs

    def apart(jobs: Sequence[Job]) -> list[list[Job]]:
        return [[job] for job in jobs]

    cluster = found.cluster
    courses = [
        Course(found.plan, group, jobs_of, searches.get(group.label)) for group in found.plan.groups
    ]
    with (
        StopFlag() as stop,
        Progress(found.plan.runs, lambda job: labels[job.folder], stop.read, quiet) as watch,
        Engine(
            batch.work,
            scheduler=cluster.scheduler,
            workers=found.workers,
            threads_per_worker=cluster.threads,
            retries=cluster.retries,
            patience=cluster.reconnect,
            watch=watch,
        ) as engine,
    ):
        ended = conduct(courses, engine, batch.group_by_shape if found.together else apart)
    return {course.group.label: course.tried(ended) for course in courses}


def _searches(found: Sweep) -> dict[str, Any]:
    """Group -> its search; none of a grid."""
    spec = found.file.search
    if spec is None:
        return {}
    from fwt.sweep.study import Search, connect

    default = (found.folder / "study.db").resolve()
    storage = connect(found.request.storage or spec.storage or default)
    return {
        group.label: Search(storage, f"{found.file.name}/{group.label}", spec, found.mark())
        for group in found.plan.groups
    }


def _result(found: Sweep, tried: dict[str, list[result.Tried]]) -> dict[str, Any]:
    """The content of `summary.json`."""
    root, groups = found.request.runs_dir.resolve(), []
    for group in found.plan.groups:
        chosen = result.best(tried[group.label])
        command = None if chosen is None else found.command(group, chosen.setting)
        groups.append(result.of_group(group, tried[group.label], command, root))
    search = found.file.search
    return {
        "format_version": 1,
        "name": found.file.name,
        "objective": result.OBJECTIVE,
        "budget": _budget(found, found.plan.groups[0]),
        "seeds": max(1, len(found.plan.seeds)),
        "sampler": search.sampler if search else "grid",
        **found.mark(),
        "groups": groups,
    }


def result_lines(found: Sweep, data: dict[str, Any]) -> list[str]:
    """The result for people: each group's settings, the best first, and how to train with it."""
    lines = []
    for group in data["groups"]:
        size = "" if group["parameters"] is None else f", {group['parameters']:,} parameters"
        lines.append(f"{group['label']}{size}: {group['tried']} settings x {data['seeds']} seeds")
        for trial in group["trials"]:
            label = Setting(trial["settings"], {}, ()).label or "the settings above"
            lines.append(f"  {_score(trial)}  {label}")
        lines.append(f"  train with: {group['command']}" if group["command"] else "  none chosen")
    summary = show(found.folder / "summary.json")
    return [*lines, f"chosen by {data['objective']}", f"summary   {summary}"]


def _score(trial: dict[str, Any]) -> str:
    failed = [run for run in trial["runs"] if run["failure"] is not None]
    if failed:
        kind = failed[0]["failure"].partition(":")[0]
        return f"failed: {len(failed)} of {len(trial['runs'])} runs, {kind}"
    sd = "" if trial["val_error_sd"] is None else f" sd {trial['val_error_sd']:5.2f}%"
    return f"val error {trial['val_error_pct']:6.2f}%{sd}"


def _check(outcomes: Sequence[Outcome], data: dict[str, Any]) -> None:
    """Say by the exit code what went wrong."""
    failed = [each for each in outcomes if each.failure is not None]
    other = [each for each in failed if not result.diverged(each)]
    if other:
        raise CheckFailed(
            f"sweep: {len(other)} of {len(outcomes)} runs failed, the first in "
            f"{other[0].job.folder}: {other[0].failure}; the same command tries them again"
        )
    none = [group["label"] for group in data["groups"] if group["chosen"] is None]
    if none:
        raise DivergedError(f"sweep: every setting of {none[0]} diverged: {failed[0].failure}")
