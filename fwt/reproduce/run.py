"""From the cells of a table to their runs, stored records and the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from fwt import backends, tasks
from fwt.data import load
from fwt.execute.batch import group_by_shape
from fwt.execute.executor import Cluster
from fwt.execute.local import executor_for
from fwt.fwcore import limits
from fwt.fwcore.errors import (
    BackendError,
    CheckFailed,
    ConfigError,
    DivergedError,
)
from fwt.fwcore.storage import locks
from fwt.fwcore.storage.durable import make_folder, write_text
from fwt.fwcore.storage.runs import default_path
from fwt.fwcore.training import launcher
from fwt.jobs import Job, Outcome, last_outcome
from fwt.lists import seeds_of
from fwt.reproduce import cells, page, search, summary
from fwt.reproduce.cells import Cell, Cells
from fwt.reproduce.curves import figures
from fwt.reproduce.page import Chapter
from fwt.reproduce.summary import Record
from fwt.signals import StopFlag

ROOT = Path(__file__).resolve().parents[2]  # of a checkout, if it is one
RESULTS, PAGE, README, PICTURES = "results", "RESULTS.md", "README.md", "docs/figures"
ELSEWHERE = Path("reproduced")
THREADS = 1  # of the arithmetic of each process, where there are several


@dataclass(frozen=True)
class Wanted:
    """Which runs; see `fwt reproduce --help`."""

    task: str
    quick: bool = False
    group: Sequence[str] | None = None
    model: Sequence[str] | None = None
    size: Sequence[int] | None = None
    seeds: str | None = None
    backend: str | None = None


@dataclass(frozen=True)
class Where:
    """On what, and where files are; see `fwt reproduce --help`."""

    device: str
    data_dir: Path | None
    out: Path | None
    runs_dir: Path


STORE_WAIT = 60.0  # seconds that another process is waited for which writes stored runs


@dataclass(frozen=True)
class Run:
    """A run of a cell: its job, and what is known of it.

    Attributes:
        cell: the cell.
        seed: its seed.
        state: `stored`, `done` (its folder is finished), `to run`, `no model` or `no backend`.
        job: None where there is no model.
    """

    cell: Cell
    seed: int
    state: str
    job: Job | None


cells_of = cache(Cells)


def results_root(out: Path | None) -> Path:
    """Where stored runs and the page are: the checkout that this command is run in, if any."""
    if out is not None:
        return out
    inside = Path.cwd().resolve().is_relative_to(ROOT) and (ROOT / RESULTS).is_dir()
    return ROOT if inside else ELSEWHERE


def chapters(root: Path) -> list[Chapter]:
    """What the page says, of every task: stored runs below a folder, and the present recipes."""
    return [
        Chapter(
            task, cells_of(task).every(), summary.load(_store(root, task)), search.load(root, task)
        )
        for task in cells.tasks_here()
    ]


def _store(root: Path, task: str) -> Path:
    return root / RESULTS / f"{task}.json"


def write_page(root: Path) -> list[Path]:
    """RESULTS.md, and in a README the part that is marked for it."""
    found = chapters(root)
    make_folder(root)
    texts = {root / PAGE: page.page(found)}
    readme = root / README
    if readme.is_file():
        texts[readme] = page.rewrite(readme.read_text(encoding="utf-8"), found)
    for path, text in texts.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return [root / PAGE]


def write_figures(root: Path) -> list[Path]:
    """The pictures; without Matplotlib a line on stderr."""
    if find_spec("matplotlib") is None:
        print("figures   not drawn: Matplotlib is missing; pip install 'fwt[plots]'",
              file=sys.stderr)  # fmt: skip
        return []
    from fwt.reproduce.drawing import draw

    found = [figures(each.task, each.cells, each.records) for each in chapters(root)]
    return draw([figure for each in found for figure in each], root / PICTURES)


def write_all(found: Reproduction) -> list[Path]:
    """The page and the pictures of what is stored."""
    with writing(found):
        return [*write_page(found.root), *write_figures(found.root)]


class Reproduction:
    """The runs that were asked for.

    Raises:
        ConfigError: an unknown task, group, model, size or backend, or no seeds.
        CheckpointError: stored runs or a run's folder are damaged.
    """

    def __init__(self, wanted: Wanted, where: Where, cluster: Cluster) -> None:
        self.wanted, self.where, self.cluster = wanted, where, cluster
        self.cells = self._cells()
        self.runs_dir = where.runs_dir / "quick" if wanted.quick else where.runs_dir
        self.root = self.runs_dir if wanted.quick else results_root(where.out)
        self.store = _store(self.root, wanted.task)

    def _cells(self) -> list[Cell]:
        wanted = self.wanted
        known = cells_of(wanted.task)
        if wanted.quick and wanted.group:
            raise ConfigError("--quick: expected no --group beside it; leave one of the two out")
        groups = [known.group(name) for name in wanted.group or ("table",)]
        given = known.quick() if wanted.quick else [cell for each in groups for cell in each]
        if not given:
            raise ConfigError(f"--group: {wanted.task} has no cells in {wanted.group}")
        return cells.chosen(given, wanted.model, wanted.size, wanted.backend)

    @cached_property
    def seeds(self) -> list[int] | None:
        """Those that were asked for; None: each cell's own. Raises ConfigError."""
        if self.wanted.seeds is None:
            return None
        return seeds_of("--seeds", self.wanted.seeds)

    def runs(self) -> list[Run]:
        """What the cells need, each run once."""
        stored = {record.key for record in summary.load(self.store)}
        found: dict[tuple[str, str | None, int], Run] = {}
        for cell in self.cells:
            for seed in self.seeds or cell.seeds:
                key = cell.backend, cell.digest or cell.name, seed
                if key not in found:
                    job = self._job(cell, seed) if cell.spec else None
                    found[key] = Run(cell, seed, _state(cell, key in stored, job), job)
        return list(found.values())

    def _job(self, cell: Cell, seed: int) -> Job:
        spec, where = cell.seeded(seed), self.where
        folder = default_path(self.runs_dir.resolve(), spec, cell.model, cell.backend)
        there = where.data_dir if tasks.parse(spec.task).reads_files else None
        return Job(
            spec,
            cell.backend,
            folder,
            where.device,
            data_dir=there and there.resolve(),
            label=f"{cell.name} s{seed} {cell.backend}",
        )

    @cached_property
    def on_gpu(self) -> bool:
        """Whether the runs go to a GPU, as far as this process can know."""
        device = self.where.device
        if device == "auto" and self.cluster.scheduler is None:
            used = {cell.backend for cell in self.cells if backends.installed(cell.backend)}
            return any(backends.load(name).devices()[0] != "cpu" for name in sorted(used))
        return device not in ("auto", "cpu")

    @property
    def workers(self) -> int:
        """How many processes are started; 1 is this one."""
        if self.cluster.workers is not None:
            return self.cluster.workers
        if self.on_gpu or find_spec("distributed") is None:
            return 1
        return limits.cores()


def _state(cell: Cell, stored: bool, job: Job | None) -> str:
    if job is None:
        return "no model"
    if stored:
        return "stored"
    if last_outcome(job) is not None:
        return "done"
    return "to run" if backends.installed(cell.backend) else "no backend"


def check_failures(failed: Sequence[Outcome], total: int) -> None:
    """Say what went wrong.

    Raises:
        CheckFailed: a run failed for another reason than divergence.
        DivergedError: runs diverged; they are stored and on the page.
    """
    other = [each for each in failed if not each.diverged]
    for kind, some in ((CheckFailed, other), (DivergedError, failed)):
        if some:
            text = some[0].failure.text if some[0].failure else ""
            raise kind(
                f"reproduce: {len(some)} of {total} runs failed, the first in "
                f"{some[0].job.folder}: {text}"
            )


def run_missing(found: Reproduction, runs: Sequence[Run], quiet: bool) -> list[Outcome]:
    """Train what is neither stored nor done; each run is stored as soon as it has ended.

    Returns:
        Those that failed.
    """
    launcher.check_alone("reproduce")
    jobs = [run.job for run in runs if run.job is not None and run.state in ("to run", "done")]
    missing = {run.cell.backend for run in runs if run.state == "no backend"}
    for name in sorted(missing):
        if found.wanted.backend == name:
            raise BackendError(f"backend {name}: not installed; see fwt doctor")
        print(f"backend   {name} is not installed: its cells are not run", file=sys.stderr)
    wanted = list(dict.fromkeys(tasks.parse(job.spec.task) for job in jobs))
    for spec in wanted:
        load(spec, found.where.data_dir, wanted)  # missing data is refused here
    failed = []
    for outcome in _outcomes(found, jobs, quiet):
        if outcome.failure is None or outcome.diverged:
            _keep(found, summary.of_folder(outcome.job.folder))
        if outcome.failure is not None:
            failed.append(outcome)
    return failed


def _keep(found: Reproduction, record: Record) -> None:
    """A record in the store, and on the page at once, so that the two never disagree for long."""
    with writing(found):
        summary.add(found.store, [record])
        if not found.wanted.quick:
            write_page(found.root)


def writing(found: Reproduction) -> AbstractContextManager[None]:
    """The store and the page, which are read and written again; one process at a time does it."""
    advice = "wait for it, or take another --out"
    return locks.held(found.store.parent, "reproduce", advice, STORE_WAIT)


def _outcomes(found: Reproduction, jobs: Sequence[Job], quiet: bool) -> Iterator[Outcome]:
    """What comes of the jobs, in the order in which they end."""
    from fwt.execute.progress import Progress

    batches = [[job] for job in jobs]
    if found.on_gpu:
        sides = [[job for job in jobs if job.backend == name] for name in cells.BACKENDS]
        batches = [batch for side in sides for batch in group_by_shape(side)]
    with (
        StopFlag() as stop,
        Progress(len(jobs), stop.read, quiet) as watch,
        executor_for(found.cluster, found.workers, watch, "reproduce") as chosen,
    ):
        chosen.submit(batches)
        yield from chosen.outcomes()
