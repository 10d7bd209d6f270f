"""Which numbers are reproduced: the cells of the papers' tables, two groups beside them, `--quick`.

A cell is a number of a table: a model of one size on one backend. Its settings are those of the
recipe of its task, model and size; a cell that changes some says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from fwt import tasks
from fwt.fwcore.cells import presets
from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.spec import RunSpec
from fwt.settings import layer, resolve
from fwt.tasks import TASKS, mnist_glimpse, retrieval
from fwt.tasks.recipe import merge
from fwt.tasks.sources import FULL, SUBSET

Point = dict[str, Any]  # dotted key of a spec -> value
Errors = Mapping[str, Mapping[int, float]]  # model -> R -> test error in percent

GROUPS = ("table", "control", "harder")
BACKENDS = ("torch", "mlx")
SEEDS = (0, 1, 2)

# Ba et al. 2016, tables 1 and 2; Wayman & Mathew 2017
PUBLISHED: dict[str, dict[str, Errors]] = {
    "retrieval": {
        "P": retrieval.PUBLISHED,
        "W": {
            "irnn": {20: 71.2, 50: 64.6, 100: 3.11},
            "lstm": {20: 53.3, 50: 3.88, 100: 1.02},
            "fast-weights": {20: 3.78, 50: 0.0, 100: 0.0},
        },
    },
    "mnist-glimpse": {"P": mnist_glimpse.PUBLISHED},
}
DATA: dict[str, Point] = {"retrieval": {}, "mnist-glimpse": {"task.dataset": FULL}}

# the cells that are run on MLX unless others are asked for: task, model, R; one seed
ON_MLX = {
    ("retrieval", "fast-weights", 20),
    ("retrieval", "fast-weights", 50),
    ("mnist-glimpse", "fast-weights", 50),
}

# the control, layer norm and fast-weights comparison of GokuMohandas/fast-weights
CONTROL_SIZE = 50
CONTROLS: tuple[tuple[str, str, Point], ...] = (
    ("control: IRNN", "irnn", {}),
    ("layer norm, S = 0", "fast-weights", {"model.core.inner_steps": 0}),
    ("fast weights, S = 1", "fast-weights", {}),
)

HARDER_PAIRS, HARDER_SIZES = (8, 16), (50, 100)
HARDER_EPOCHS = 20  # of every model: some recipes' passes over longer strings would take hours
HARDER_BATCH = 128  # so that every model gets as many updates, too

QUICK_SIZE = 50
# passes over the data that show the order of the models; glimpses are those of the bundled subset
QUICK: dict[str, Point] = {
    "retrieval": {"train.epochs": 12},
    "mnist-glimpse": {"task.dataset": SUBSET, "train.epochs": 7},
}


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        task, model: names of the command line.
        group: a name of `GROUPS`, or `quick`.
        size: R.
        backend: that trains it.
        seeds: of its runs, unless others are asked for.
        named: whether it is run without being asked for by its backend.
        label: what the row is called.
        pairs: K of retrieval; None elsewhere.
        spec: its settings with the first seed; None where there is no such model.
    """

    task: str
    group: str
    model: str
    size: int
    backend: str
    seeds: tuple[int, ...]
    named: bool
    label: str
    pairs: int | None
    spec: RunSpec | None

    def seeded(self, seed: int) -> RunSpec:
        """The settings of one of its runs.

        Raises:
            ConfigError: there is no such model.
        """
        if self.spec is None:
            raise ConfigError(f"--model: {self.model!r} is not there ({_known_models()})")
        train = self.spec.train.model_copy(update={"seed": seed})
        return self.spec.model_copy(update={"train": train})

    @property
    def digest(self) -> str | None:
        """What names its settings, see `RunSpec.run_digest`."""
        return None if self.spec is None else self.spec.run_digest()

    @property
    def command(self) -> str:
        """What runs it again."""
        on = "" if self.backend == BACKENDS[0] else f" --backend {self.backend}"
        return f"fwt reproduce {self.task} --model {self.model} --size {self.size}{on}"

    @property
    def name(self) -> str:
        """Such as `lstm R=50` or `lstm R=50 K=8`."""
        more = f" K={self.pairs}" if self.group == "harder" else ""
        return f"{self.label if self.group == 'control' else self.model} R={self.size}{more}"


def _known_models() -> str:
    return f"known: {', '.join(sorted(presets()))}"


def models(task: str) -> list[str]:
    """The models of a task's published table, in its order."""
    return list(PUBLISHED[check_task(task)]["P"])


def sizes(task: str) -> list[int]:
    """R of a task's published table."""
    return sorted({size for errors in PUBLISHED[task]["P"].values() for size in errors})


def check_task(task: str) -> str:
    """The name of a task that has a published table. Raises ConfigError with the nearest one."""
    if task not in PUBLISHED:
        raise ConfigError(f"task: unknown task {task!r} ({nearest(task, PUBLISHED)})")
    return task


class Cells:
    """The cells of a task with the settings of the present recipes; no dataset is needed.

    Args:
        task: its name.

    Raises:
        ConfigError: an unknown task.
    """

    def __init__(self, task: str) -> None:
        self.task = check_task(task)
        self._load = cache(tasks.load)
        self.models, self.sizes = models(task), sizes(task)

    def _spec(self, model: str, point: Point) -> RunSpec:
        """By the layers of `fwt train`; the bundled images have the shapes of the full set."""
        wanted = layer(point.items(), "cells")
        options = wanted.get("task", {})
        at_hand = merge(wanted, {"task": {"dataset": SUBSET}}) if "dataset" in options else wanted
        spec = resolve(self.task, model, {}, at_hand, None, None, self._load).spec  # pyright: ignore[reportArgumentType]
        return RunSpec.parse(merge(spec.json_data(), {"task": options}), f"cells of {self.task}")

    def group(self, name: str) -> list[Cell]:
        """The cells of a group, torch before MLX; [] where the task has no such group.

        Raises:
            ConfigError: an unknown group.
        """
        if name not in GROUPS:
            raise ConfigError(f"--group: unknown group {name!r} ({nearest(name, GROUPS)})")
        makers = {"table": self._table, "control": self._control, "harder": self._harder}
        return makers[name]()

    def every(self) -> list[Cell]:
        """All cells but those of `--quick`."""
        return [cell for name in GROUPS for cell in self.group(name)]

    def quick(self) -> list[Cell]:
        """A short run of every model at R = 50, one seed, on torch."""
        point = QUICK[self.task]
        return [
            found
            for model in self.models
            for found in self._on_each("quick", model, QUICK_SIZE, point, (0,), model)
            if found.backend == "torch"
        ]

    def _table(self) -> list[Cell]:
        return [
            cell
            for size, model in product(self.sizes, self.models)
            for cell in self._on_each("table", model, size, {}, SEEDS, model)
        ]

    def _control(self) -> list[Cell]:
        if self.task != "retrieval":
            return []
        return [
            cell
            for label, model, changes in CONTROLS
            for cell in self._on_each("control", model, CONTROL_SIZE, changes, SEEDS, label)
            if cell.backend == "torch"
        ]

    def _harder(self) -> list[Cell]:
        if self.task != "retrieval":
            return []
        passes = {
            "train.epochs": HARDER_EPOCHS, "train.steps": None, "train.batch_size": HARDER_BATCH,
            "task.renamings": 0,
        }  # fmt: skip
        longer = [{"task.pairs": pairs, **passes} for pairs in HARDER_PAIRS]
        return [
            cell
            for point, size, model in product(longer, HARDER_SIZES, self.models)
            for cell in self._on_each("harder", model, size, point, (0,), model)
            if cell.backend == "torch"
        ]

    def _on_each(
        self, group: str, model: str, size: int, changes: Point, seeds: tuple[int, ...], label: str
    ) -> Iterable[Cell]:
        """A cell on every backend that trains."""
        spec = None
        if model in presets():
            point = {**DATA[self.task], **changes, "model.core.size": size, "train.seed": seeds[0]}
            spec = self._spec(model, point)
        pairs = changes.get("task.pairs", retrieval.PUBLISHED_PAIRS)
        pairs = pairs if self.task == "retrieval" else None
        for backend in BACKENDS:
            on_torch = backend == "torch"
            named = on_torch or (self.task, model, size) in ON_MLX
            own = seeds if on_torch else seeds[:1]
            yield Cell(self.task, group, model, size, backend, own, named, label, pairs, spec)


def chosen(
    cells: Sequence[Cell],
    wanted_models: Sequence[str] | None,
    wanted_sizes: Sequence[int] | None,
    backend: str | None,
) -> list[Cell]:
    """The cells that were asked for; without a backend those that are named.

    Raises:
        ConfigError: there is no such model, size or backend among them.
    """
    _check("--model", wanted_models, {cell.model for cell in cells})
    _check("--size", wanted_sizes, {cell.size for cell in cells})
    _check("--backend", None if backend is None else [backend], {cell.backend for cell in cells})
    return [
        cell
        for cell in cells
        if cell.model in (wanted_models or (cell.model,))
        and cell.size in (wanted_sizes or (cell.size,))
        and (cell.named if backend is None else cell.backend == backend)
    ]


def _check(flag: str, wanted: Sequence[Any] | None, known: set[Any]) -> None:
    for value in wanted or ():
        if value not in known:
            names = nearest(str(value), map(str, known))
            raise ConfigError(f"{flag}: no cell has {value!r} ({names})")


def tasks_here() -> list[str]:
    """The tasks that have a published table."""
    return [task for task in TASKS if task in PUBLISHED]
