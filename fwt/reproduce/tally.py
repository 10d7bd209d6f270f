"""Cells beside their runs: errors of each seed, mean and spread, and the order of the models."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fwt.reproduce.cells import BACKENDS, PUBLISHED, Cell
from fwt.reproduce.summary import Record


@dataclass(frozen=True)
class Tally:
    """A cell and what is stored of its runs, by seed.

    Attributes:
        cell: the cell.
        records: its runs with the present settings, those that diverged too.
    """

    cell: Cell
    records: tuple[Record, ...]

    @property
    def errors(self) -> list[float]:
        """Test error in percent of each run that has one."""
        return [r.test_error_pct for r in self.records if r.test_error_pct is not None]

    @property
    def mean(self) -> float | None:
        """The mean of the errors."""
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def sd(self) -> float | None:
        """Their standard deviation (n - 1)."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def result(self) -> str:
        """Such as `1.27 ± 0.81 (3)`."""
        if self.mean is None:
            return "diverged" if self.records else "not run"
        middle = digits(self.mean)
        sd = "" if self.sd is None else f" ± {self.sd:.{len(middle.partition('.')[2])}f}"
        lost = len(self.records) - len(self.errors)
        return f"{middle}{sd} ({len(self.errors)}{f', {lost} diverged' if lost else ''})"

    @property
    def place(self) -> str:
        """The backend, and the devices if it was run."""
        devices = dict.fromkeys(record.device for record in self.records)
        return ", ".join(filter(None, [self.cell.backend, " and ".join(devices)]))

    @property
    def parameters(self) -> int | None:
        """Of a run; None if there is none, as for the next two."""
        return self.records[0].parameters if self.records else None

    @property
    def steps(self) -> int | None:
        """The updates of the longest run."""
        return max((record.steps for record in self.records), default=None)

    @property
    def minutes(self) -> float | None:
        """The mean of the runs that did not diverge."""
        done = [each.minutes for each in self.records if each.test_error_pct is not None]
        return statistics.fmean(done) if done else None


def tallies(cells: Iterable[Cell], records: Iterable[Record]) -> list[Tally]:
    """Every cell with its runs."""
    runs_of: dict[tuple[str, str | None], list[Record]] = {}
    for record in records:
        backend, digest, _ = record.key
        runs_of.setdefault((backend, digest), []).append(record)
    given = [(cell, runs_of.get((cell.backend, cell.digest), [])) for cell in cells]
    return [
        Tally(cell, tuple(sorted(runs, key=lambda record: record.seed))) for cell, runs in given
    ]


def strangers(cells: Iterable[Cell], records: Iterable[Record]) -> list[Record]:
    """The runs whose settings are those of no cell."""
    known = {cell.digest for cell in cells}
    return [record for record in records if record.key[1] not in known]


def digits(error: float) -> str:
    """A percentage of ours: `0.72`; below a tenth `0.005`, as one of 20,000 strings is."""
    return f"{error:.3f}" if 0 < error < 0.1 else f"{error:.2f}"


def percent(error: float | None) -> str:
    """The same of a run that may have diverged."""
    return "diverged" if error is None else digits(error)


def spread(errors: Sequence[float]) -> str:
    """Such as `1.27 (0.70 to 2.20)`; `0.70` of one."""
    middle = digits(statistics.fmean(errors))
    if len(errors) == 1:
        return middle
    return f"{middle} ({digits(min(errors))} to {digits(max(errors))})"


def orders(task: str, table: Iterable[Tally]) -> list[tuple[int, str]]:
    """For each R our order of the models beside the paper's, on the first backend."""
    ours: dict[int, dict[str, list[float]]] = {}
    for tally in table:
        row = ours.setdefault(tally.cell.size, {})
        if tally.cell.backend == BACKENDS[0]:
            row[tally.cell.model] = tally.errors
    published = PUBLISHED[task]["P"]
    return [
        (size, order_sentence({m: e[size] for m, e in published.items() if size in e}, ours[size]))
        for size in sorted(ours)
    ]


def order_sentence(published: Mapping[str, float], ours: Mapping[str, Sequence[float]]) -> str:
    """How our order of the models compares with the published one.

    Args:
        published: model -> test error in percent.
        ours: model -> test errors of its runs; a model without any is named as not compared.
    """
    compared = [model for model in published if ours.get(model)]
    missing = [model for model in published if model not in compared]
    text = ""
    if len(compared) > 1:
        means = {model: statistics.fmean(ours[model]) for model in compared}
        ordered = sorted(compared, key=lambda model: means[model])
        text = f"Ours, best first: {', '.join(f'{m} {spread(ours[m])}' for m in ordered)}. "
        faults = [
            _reversed(better, worse, published, ours)
            for better, worse in (
                sorted(pair, key=lambda model: published[model])
                for pair in combinations(compared, 2)
            )
            if published[better] < published[worse] and means[better] > means[worse]
        ]
        text += f"**The order differs:** {'; '.join(faults)}." if faults else "The order is [P]'s."
    if missing:
        text += f" Not compared, because not run: {', '.join(missing)}."
    return text.strip()


def _reversed(
    better: str, worse: str, published: Mapping[str, float], ours: Mapping[str, Sequence[float]]
) -> str:
    """Two models whose order here is not that of the paper."""
    first, second = ours[better], ours[worse]
    overlap = min(first) <= max(second)
    single = len(first) == 1 and len(second) == 1
    note = "one run each" if single else f"the runs {'' if overlap else 'do not '}overlap"
    return (
        f"[P] has {better} ({published[better]:.2f}) before {worse} ({published[worse]:.2f}), "
        f"here {worse} is at {spread(second)} and {better} at {spread(first)}; {note}"
    )
