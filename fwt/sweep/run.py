"""A sweep from its file to its summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fwt import backends, data, tasks
from fwt.execute.batch import group_by_shape, work
from fwt.execute.executor import Cluster
from fwt.fwcore import limits
from fwt.fwcore.errors import BackendError, CheckFailed, ConfigError, DivergedError
from fwt.fwcore.frozen import differences
from fwt.fwcore.paths import quote
from fwt.fwcore.storage import checkpoint, locks
from fwt.fwcore.storage.runs import default_path
from fwt.fwcore.training import launcher
from fwt.jobs import Job, Outcome, last_outcome
from fwt.signals import StopFlag
from fwt.sweep import plan as plans
from fwt.sweep import result
from fwt.sweep.plan import MODEL, NAMES, SEED, Group, Plan, Setting
from fwt.sweep.result import Tried

PACKAGES = ("distributed", "optuna")
MARK_FILE = "sweep.json"  # what the sweep of a folder is


@dataclass(frozen=True)
class Request:
    """What to sweep, and where its runs are.

    Attributes:
        file: the sweep file.
        device, memory, data_dir: those of each job.
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
    gone = [name for name in PACKAGES if not _installed(name)]
    if gone:
        raise BackendError(
            f"sweep: package {' and '.join(gone)} is not installed; pip install 'fwt[sweep]'"
        )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # one that does not start
        return False


class Sweep:
    """A sweep file with all that it names: task, data, backend, runs.

    Raises:
        ConfigError: a name or a value cannot be.
        FileError: the file, or data that it needs, is missing.
    """

    def __init__(self, request: Request, cluster: Cluster) -> None:
        file = plans.read(request.file)
        self.request, self.cluster, self.file = request, cluster, file
        self.backend = backends.named(file.backend)
        self.plan = Plan(file, request.data_dir)
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
        request, root = self.request, self.request.runs_dir.resolve()
        jobs = []
        for spec in setting.specs:
            folder = data.folder_for(tasks.parse(spec.task), request.data_dir)
            words = (group.label, setting.label, f"seed={spec.train.seed}")
            jobs.append(
                Job(
                    spec,
                    self.backend,
                    default_path(root, spec, group.model, self.backend),
                    request.device,
                    request.memory,
                    folder and folder.resolve(),
                    label=" ".join(filter(None, words)),
                )
            )
        return tuple(jobs)

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

    def budget(self, group: Group) -> int:
        """How many settings of a group are tried."""
        return self.file.search.trials if self.file.search else len(group.settings)

    def plan_data(self) -> dict[str, Any]:
        """What will run, as JSON data."""
        plan, search = self.plan, self.file.search
        jobs = [
            job
            for group in plan.groups
            for setting in group.settings
            for job in self.jobs_of(group, setting)
        ]
        return {
            "name": self.file.name,
            "backend": self.backend,
            "runs": plan.runs,
            "done": sum(last_outcome(job) is not None for job in jobs),
            "population": self.together,
            "search": search and {**search.json_data(), "storage": None},
            "groups": [
                {
                    "label": group.label,
                    "parameters": group.parameters,
                    "tried": self.budget(group),
                    "settings": [setting.values for setting in group.settings],
                }
                for group in plan.groups
            ],
            "specs": [job.spec.json_data() for job in jobs],
        }

    def run(self, quiet: bool) -> tuple[dict[str, Any], list[Outcome]]:
        """Run all that is not done, and write the summary; it is returned with all outcomes.

        Raises:
            InUseError: another process runs the sweep.
            Interrupted: a signal came; what ran was saved.
            BackendError: the scheduler does not answer, or was lost.
        """
        launcher.check_alone("sweep")
        with locks.held(self.folder, "sweep", "wait for it, or give this one another name"):
            self.check_name()
            searches = self._searches()
            result.write(self.folder / MARK_FILE, self.mark())
            tried = self._try_all(searches, quiet)
            summary = self._summary(tried)
            result.write(self.folder / "summary.json", summary)
        return summary, [end for group in tried.values() for one in group for end in one.outcomes]

    def _try_all(self, searches: dict[str, Any], quiet: bool) -> dict[str, list[Tried]]:
        """Run all of it: group -> its settings and how their runs ended."""
        from fwt.execute.cluster import Dask
        from fwt.execute.progress import Progress
        from fwt.sweep.drive import Course, conduct

        courses = [
            Course(self.plan, group, self.jobs_of, searches.get(group.label))
            for group in self.plan.groups
        ]
        with (
            StopFlag() as stop,
            Progress(self.plan.runs, stop.read, quiet) as watch,
            Dask(self.cluster, self.workers, watch, work) as executor,
        ):
            ends = conduct(courses, executor, group_by_shape if self.together else _one_each)
        return {course.group.label: course.tried(ends) for course in courses}

    def _searches(self) -> dict[str, Any]:
        """Group -> its search; none of a grid."""
        spec = self.file.search
        if spec is None:
            return {}
        from fwt.sweep.study import Search, connect

        default = (self.folder / "study.db").resolve()
        storage = connect(self.request.storage or spec.storage or default)
        return {
            group.label: Search(storage, f"{self.file.name}/{group.label}", spec, self.mark())
            for group in self.plan.groups
        }

    def _summary(self, tried: dict[str, list[Tried]]) -> dict[str, Any]:
        """The content of `summary.json`."""
        root, groups = self.request.runs_dir.resolve(), []
        for group in self.plan.groups:
            chosen = result.best(tried[group.label])
            command = None if chosen is None else self.command(group, chosen.setting)
            groups.append(result.of_group(group, tried[group.label], command, root))
        search = self.file.search
        return {
            "format_version": 1,
            "name": self.file.name,
            "objective": result.OBJECTIVE,
            "budget": self.budget(self.plan.groups[0]),
            "seeds": max(1, len(self.plan.seeds)),
            "sampler": search.sampler if search else "grid",
            **self.mark(),
            "groups": groups,
        }


def _one_each(jobs: Sequence[Job]) -> list[list[Job]]:
    return [[job] for job in jobs]


def check_outcomes(summary: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Say what went wrong in a sweep that has run.

    Raises:
        CheckFailed: a run failed for another reason than divergence.
        DivergedError: every setting of a group diverged.
    """
    failures = [(each.job, each.failure) for each in outcomes if each.failure is not None]
    for job, failure in failures:
        if not failure.diverged:
            count = sum(not other.diverged for _, other in failures)
            raise CheckFailed(
                f"sweep: {count} of {len(outcomes)} runs failed, the first in {job.folder}: "
                f"{failure.text}; the same command tries them again"
            )
    none = [group["label"] for group in summary["groups"] if group["chosen"] is None]
    if none:
        raise DivergedError(f"sweep: every setting of {none[0]} diverged: {failures[0][1].text}")
