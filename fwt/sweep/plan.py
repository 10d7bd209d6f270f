"""From a sweep file to the runs that it asks for: base settings, axes, seeds, groups.

    name = "lstm-retrieval"
    task = "retrieval"
    [base]
    epochs = 5
    [axes]
    model = ["lstm", "irnn"]
    lr = [1e-3, 3e-3]
    seed = "0-2"

Settings that differ in model, size or the task's options are groups: nothing is chosen between
them, and a search has a budget for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, JsonValue

from fwt import data
from fwt.fwcore import model
from fwt.fwcore.cells.base import PositiveInt
from fwt.fwcore.errors import ConfigError, FileError, nearest
from fwt.fwcore.frozen import Frozen, leaves
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import files
from fwt.keys import KEYS
from fwt.lists import seeds_of
from fwt.settings import Resolved, layer, resolve

TABLES = ("task", "model", "train", "report")
MODEL, SIZE, SEED = "model", "model.core.size", "train.seed"
NAMES = {name: path for name, path in KEYS.items() if name != "seeds"}
MOST = 10_000  # runs of a sweep: a range may be typed wrong

Point = dict[str, Any]  # dotted key of a spec, or `model`, -> value


class Range(Frozen):
    """Numbers between two bounds, both included.

    Attributes:
        low, high: the bounds.
        log: whether their logarithm is uniform; low must be above 0.
        integer: whether they are whole.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"expected low <= high, and low > 0 with log, got low={self.low}, high={self.high}"
            )
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"expected whole bounds, got low={self.low}, high={self.high}")
        return self

    def ends(self) -> list[float]:
        """Both bounds."""
        bounds = [self.low, self.high]
        return [int(bound) for bound in bounds] if self.integer else bounds


class SearchSpec(Frozen):
    """A search: settings are drawn by a sampler instead of taken from a grid.

    Attributes:
        sampler: `tpe` (Bergstra et al. 2011, learns from the trials before) or `random`.
        trials: how many settings are tried in each group.
        batch: how many of a group are drawn at once and run side by side; a sampler learns from
            the batches before. Results depend on it, and not on the number of workers.
        startup: trials that `tpe` draws at random before it learns.
        seed: of the sampler.
        storage: URL of a database for Optuna; None is a SQLite file in the sweep's folder.
        space: name -> a range, or a list of choices.
    """

    sampler: Literal["tpe", "random"] = "tpe"
    trials: PositiveInt
    batch: PositiveInt = 4
    startup: PositiveInt = 8
    seed: int = 0
    storage: str | None = None
    space: Annotated[dict[str, JsonValue], Field(min_length=1)]

    def ranges(self) -> dict[str, Range | list[Any]]:
        """The space, each entry as what it is.

        Raises:
            ConfigError: one is neither a range nor a list of plain choices.
        """
        found: dict[str, Range | list[Any]] = {}
        for name, given in self.space.items():
            if isinstance(given, dict):
                found[name] = Range.parse(given, f"sweep: search.space.{name}")
            elif isinstance(given, list) and given and not any(map(_nested, given)):
                found[name] = given
            else:
                raise ConfigError(
                    "sweep: search.space: expected a table with low and high, or a list of plain "
                    f"choices, got {name}={given!r}"
                )
        return found


class SweepFile(Frozen):
    """What a sweep file says.

    Attributes:
        name: names the sweep's folder and its studies.
        task: the task's name.
        backend: a name of `fwt.backends.BACKENDS`, or `auto`.
        control: see `fwt train --control`.
        population: whether runs that differ in seed, learning rate, decay or rate alone are
            trained as one program; `auto` does so on a GPU.
        base: settings of all runs: tables as in `spec.json`, dotted keys, or the names of flags.
        axes: the same names with the values of a grid; `seed` may be a range, "0-2".
        search: sample instead.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: str
    backend: str = "auto"
    control: str | None = None
    population: Literal["auto", True, False] = "auto"
    base: dict[str, JsonValue] = Field(default_factory=dict)
    axes: dict[str, JsonValue] = Field(default_factory=dict)
    search: SearchSpec | None = None


@dataclass(frozen=True)
class Setting:
    """What is compared: a run for each seed.

    Attributes:
        values: what sets it apart in its group, by the names of the file.
        point: all that it changes, by dotted key.
        specs: its runs.
    """

    values: dict[str, Any]
    point: Point
    specs: tuple[RunSpec, ...]

    @property
    def label(self) -> str:
        """Such as `lr=0.001 schedule=cosine`."""
        return " ".join(f"{name}={_short(value)}" for name, value in self.values.items())


@dataclass(frozen=True)
class Group:
    """Settings among which one is chosen.

    Attributes:
        label: such as `lstm R=50`.
        model: the model's name.
        fixed: what all of them have, by the names of the file.
        point: the same by dotted key.
        parameters: how many numbers the model learns; None if it is not the same for all.
        settings: of a grid; a search adds its own.
    """

    label: str
    model: str
    fixed: dict[str, Any]
    point: Point
    parameters: int | None
    settings: tuple[Setting, ...]


def _nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(path: Path) -> SweepFile:
    """A sweep file.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is not TOML, or not a sweep; the nearest known key is named.
    """
    try:
        found = files.from_toml(files.text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"sweep: {path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"sweep: {path} is not TOML: {error}") from error
    return SweepFile.parse(found, f"sweep: {path}")


class Plan:
    """The groups of a sweep and their runs.

    Args:
        file: the sweep.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.

    Raises:
        ConfigError: an unknown name or value, a setting that is there twice, or too many runs.
        DataError: the dataset cannot be had.
    """

    def __init__(self, file: SweepFile, data_dir: Path | None = None) -> None:
        self.file, self._data_dir = file, data_dir
        self._load = cache(data.load)  # read once for all runs
        self.base = self._flat(file.base, "base")
        axes = {name: self._values(name, given) for name, given in file.axes.items()}
        self.paths = {name: self._path(name, "axes") for name in axes}
        _check_apart(self.paths, "axes")
        self.seeds = [v for name, values in axes.items() if self._is_seed(name) for v in values]
        self.axes = {name: values for name, values in axes.items() if not self._is_seed(name)}
        if file.search is not None:
            self._check_search(file.search)
        count = math.prod(map(len, axes.values())) * (file.search.trials if file.search else 1)
        if count > MOST:
            raise ConfigError(f"sweep: expected at most {MOST} runs, got {count}")
        self.runs = count
        self.groups = self._groups()
        if file.search is not None:
            self._check_ends(file.search)

    def _is_seed(self, name: str) -> bool:
        return self.paths[name] == SEED

    def _is_group(self, name: str) -> bool:
        path = self.paths[name]
        return path in (MODEL, SIZE) or path.startswith("task.")

    def _path(self, name: str, where: str) -> str:
        """The dotted key of a name. Raises ConfigError with the nearest one."""
        names = {**NAMES, "R": SIZE, MODEL: MODEL}
        table, dot, _ = name.partition(".")
        path = name if dot and table in TABLES else names.get(name)
        if path is None:
            known = nearest(name, names)
            raise ConfigError(f"sweep: {where}: unknown name {name!r} ({known}, or TABLE.KEY)")
        if where != "base" and path.startswith("report."):
            raise ConfigError(
                f"sweep: {where}: expected what a run learns from, got {name!r}, which says when "
                "it reports; put it into [base]"
            )
        return path

    def _flat(self, given: Mapping[str, Any], where: str) -> Point:
        """Settings of tables, dotted keys and flag names, by dotted key."""
        found: list[tuple[str, Any]] = []
        for name, value in given.items():
            if name in TABLES and isinstance(value, Mapping):
                found += leaves(value, f"{name}.")
            else:
                found.append((self._path(name, where), value))
        point = dict(found)
        if len(point) < len(found):
            twice = sorted({path for path, _ in found if [p for p, _ in found].count(path) > 1})
            raise ConfigError(f"sweep: {where}: expected each setting once, got {twice[0]} twice")
        return point

    def _values(self, name: str, given: Any) -> list[Any]:
        """The values of an axis."""
        seeds = self._path(name, "axes") == SEED
        if seeds and isinstance(given, str):
            given = seeds_of("seed", given)
        values = given if isinstance(given, list) else [given]
        if not values or any(value in values[:at] for at, value in enumerate(values)):
            raise ConfigError(f"sweep: axes: expected values, each once, got {name}={values!r}")
        if seeds and not all(type(value) is int for value in values):
            raise ConfigError(f"sweep: axes: expected whole numbers, got {name}={values!r}")
        return values

    def _check_search(self, search: SearchSpec) -> None:
        search.ranges()
        more = [name for name in self.axes if not self._is_group(name)]
        if more:
            raise ConfigError(
                f"sweep: axes: expected model, size, options of the task and seed beside [search], "
                f"got {more[0]!r}; put it into [search.space]"
            )
        space = {name: self._path(name, "search.space") for name in search.space}
        _check_apart(space, "search.space")
        for name, path in space.items():
            if path in (MODEL, SIZE, SEED) or path.startswith("task."):
                raise ConfigError(
                    f"sweep: search.space: expected settings to choose among, got {name!r}, which "
                    "is compared or averaged; put it into [axes]"
                )

    def _check_ends(self, search: SearchSpec) -> None:
        """Resolve the ends of every range and all choices, so that nothing drawn is refused."""
        values = {
            name: given.ends() if isinstance(given, Range) else given
            for name, given in search.ranges().items()
        }
        first = {name: ends[0] for name, ends in values.items()}
        for group in self.groups:
            for name, ends in values.items():
                for value in ends:
                    self.sampled(group, first | {name: value})

    def _groups(self) -> tuple[Group, ...]:
        """All groups with their settings; each run is resolved, so that nothing fails later."""
        apart = {name: self.axes[name] for name in self.axes if self._is_group(name)}
        inner = {name: self.axes[name] for name in self.axes if not self._is_group(name)}
        seen: dict[tuple[str, int], str] = {}
        found = []
        for fixed in _combinations(apart):
            settings = []
            point = {self.paths[name]: value for name, value in fixed.items()}
            for values in _combinations(inner):
                setting = self._setting(point, values, self.paths)
                for spec in setting.specs:
                    mark, text = (spec.run_digest(), spec.train.seed), f"{fixed} {values}"
                    if mark in seen:
                        raise ConfigError(f"sweep: {text} gives the same run as {seen[mark]}")
                    seen[mark] = text
                settings.append(setting)
            found.append(self._group(fixed, point, settings))
        return tuple(found)

    def _group(self, fixed: dict[str, Any], point: Point, settings: list[Setting]) -> Group:
        spec, name = (resolved := self._resolve(point)).spec, resolved.model
        counts = {_parameters(each.specs[0]) for each in settings}
        rest = {key: v for key, v in fixed.items() if self.paths[key] not in (MODEL, SIZE)}
        words = [name, f"R={spec.model.core.size}", *(f"{key}={v}" for key, v in rest.items())]
        shown = () if self.file.search else tuple(settings)
        number = counts.pop() if len(counts) == 1 else None
        return Group(" ".join(words), name, fixed, point, number, shown)

    def _resolve(self, point: Point) -> Resolved:
        """By the layers of `fwt train`: the base as a file, the point as flags."""
        base, own = (
            layer(((path, value) for path, value in given.items() if path != MODEL), where)
            for given, where in ((self.base, "sweep: base"), (point, "sweep: axes"))
        )
        name = point.get(MODEL, self.base.get(MODEL))
        control = self.file.control
        return resolve(self.file.task, name, base, own, control, self._data_dir, self._load)  # pyright: ignore[reportArgumentType]

    def _setting(
        self, point: Point, values: Mapping[str, Any], paths: Mapping[str, str]
    ) -> Setting:
        whole = point | {paths[name]: value for name, value in values.items()}
        seeds = [{SEED: seed} for seed in self.seeds] or [{}]
        specs = tuple(self._resolve(whole | seed).spec for seed in seeds)
        return Setting(dict(values), whole, specs)

    def sampled(self, group: Group, values: Mapping[str, Any]) -> Setting:
        """The setting of a group with values that a search has drawn.

        Raises:
            ConfigError: a value cannot be.
        """
        paths = {name: self._path(name, "search.space") for name in values}
        return self._setting(group.point, values, paths)


def _parameters(spec: RunSpec) -> int:
    return sum(math.prod(param.shape) for param in model.parameters(spec.model))


def _combinations(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _check_apart(paths: Mapping[str, str], where: str) -> None:
    """Refuse two names of one setting, such as `lr` and `train.lr`."""
    for name, path in paths.items():
        first = next(other for other in paths if paths[other] == path)
        if first != name:
            raise ConfigError(f"sweep: {where}: {first!r} and {name!r} are the same setting")
