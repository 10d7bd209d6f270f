"""The course of a sweep: what each group runs next, until grids and budgets are spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fwt.execute.executor import Executor
from fwt.jobs import Job, Outcome
from fwt.sweep.plan import Group, Plan, Setting
from fwt.sweep.result import Tried
from fwt.sweep.study import Search, Trial

DIVERGED_PCT = 100.0  # what a search is told of a setting that diverged: nothing is worse

JobsOf = Callable[[Group, Setting], tuple[Job, ...]]
Batches = Callable[[Sequence[Job]], Sequence[Sequence[Job]]]
Ended = Mapping[Path, Outcome]


class Course:
    """One group: the settings it has tried, and where it has a search, those it tries next."""

    def __init__(self, plan: Plan, group: Group, jobs_of: JobsOf, search: Search | None) -> None:
        self.group = group
        self._plan, self._jobs_of, self._search = plan, jobs_of, search
        self._tried: list[tuple[Setting, tuple[Job, ...]]] = []
        self._open: list[tuple[Trial, tuple[Job, ...]]] = []  # of a search, and not answered

    def begin(self) -> list[tuple[Job, ...]]:
        """The jobs of the settings that can be run at once, those of before among them."""
        if self._search is None:
            return [self._add(setting) for setting in self.group.settings]
        trials = self._search.known()
        if not trials or self._search.partial():  # a process may have died while it drew a batch
            trials += self._search.ask()
        return self._try(trials)

    def go_on(self, ended: Ended) -> list[tuple[Job, ...]]:
        """Once all settings of a batch have ended, the jobs of the next; else []."""
        if self._search is None or any(
            job.folder not in ended for _, jobs in self._open for job in jobs
        ):
            return []
        found = self.tried(ended)
        for number, (trial, _) in enumerate(self._open, len(found) - len(self._open)):
            if found[number].final:
                whole = found[number].whole
                self._search.tell(trial, found[number].rank()[0] if whole else DIVERGED_PCT)
        self._open = []
        return self._try(self._search.ask())

    def _try(self, trials: Sequence[Trial]) -> list[tuple[Job, ...]]:
        drawn = [(each, self._plan.sampled(self.group, each.values)) for each in trials]
        self._open += [(trial, self._add(setting)) for trial, setting in drawn]
        return [jobs for _, jobs in self._open]

    def _add(self, setting: Setting) -> tuple[Job, ...]:
        jobs = self._jobs_of(self.group, setting)
        self._tried.append((setting, jobs))
        return jobs

    def tried(self, ended: Ended) -> list[Tried]:
        """All settings so far with how their runs ended, in the order in which they were drawn."""
        return [
            Tried(setting, tuple(ended[job.folder] for job in jobs))
            for setting, jobs in self._tried
        ]


def conduct(courses: Sequence[Course], executor: Executor, batches: Batches) -> dict[Path, Outcome]:
    """Run all groups side by side to their ends.

    Args:
        courses: the groups.
        executor: what runs their jobs.
        batches: how jobs that are there together are put into batches.

    Returns:
        How each job ended, by its folder.

    Raises:
        Interrupted: it was asked to stop; what ran was saved.
    """
    ended: dict[Path, Outcome] = {}
    begun: set[Path] = set()

    def start(more: Sequence[tuple[Job, ...]]) -> None:
        """Settings that were drawn twice have the same folders, which are run once."""
        while more:
            new = {job.folder: job for jobs in more for job in jobs if job.folder not in begun}
            begun.update(new)
            executor.submit(batches(list(new.values())))
            more = [jobs for course in courses for jobs in course.go_on(ended)]

    start([jobs for course in courses for jobs in course.begin()])
    for outcome in executor.outcomes():
        ended[outcome.job.folder] = outcome
        start([jobs for course in courses for jobs in course.go_on(ended)])
    return ended
