"""What the figures show, and what they leave out: numbers and captions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fwt.plots.means import mean_of, seeds_of
from fwt.reproduce.cells import CONTROL_SIZE, HARDER_BATCH, HARDER_EPOCHS, HARDER_SIZES, Cell
from fwt.reproduce.summary import Record
from fwt.reproduce.tally import Tally, tallies

UPDATES_SIZE = 50  # R of the paper's figure


@dataclass(frozen=True)
class Line:
    """A line of a figure.

    Attributes:
        label: in the legend.
        style: what picks its look; a model has the same in every figure.
        panel: which panel it stands in.
        x: where the points are.
        middle, low, high: mean, least and largest over the seeds, in percent.
    """

    label: str
    style: str
    panel: str
    x: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        file: its name.
        title, caption: of the page.
        x_label, y_label: of its axes.
        group: whose cells it shows.
        lines: what is drawn.
        missing: the cells that have no runs.
    """

    file: str
    title: str
    about: str
    x_label: str
    y_label: str
    group: str
    lines: tuple[Line, ...]
    missing: tuple[str, ...]

    @property
    def drawn(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.lines)

    @property
    def caption(self) -> str:
        """What it shows and what is left out."""
        if not self.missing:
            return self.about
        what = "result" if self.group == "harder" else "learning curve"
        return f"{self.about} Left out, for want of a stored {what}: {', '.join(self.missing)}."


def figures(task: str, cells: Sequence[Cell], records: Sequence[Record]) -> list[Figure]:
    """The figures of a task."""
    on_torch = [cell for cell in cells if cell.backend == "torch"]

    def of(group: str) -> list[Tally]:
        return tallies((cell for cell in on_torch if cell.group == group), records)

    table = [tally for tally in of("table") if tally.cell.size == UPDATES_SIZE]
    found = [_updates(task, table)]
    if of("control"):
        found.append(_control(task, of("control")))
    if of("harder"):
        known = [tally for tally in of("table") if tally.cell.size in HARDER_SIZES]
        found.append(_harder(task, [*known, *of("harder")]))
    return found


def _updates(task: str, found: Sequence[Tally]) -> Figure:
    return Figure(
        f"{task}-updates-r{UPDATES_SIZE}.png",
        f"Accuracy against updates, R = {UPDATES_SIZE}",
        "Accuracy on the validation split (the test split is looked at once, at the end): mean "
        "over the seeds, and the range of the seeds.",
        "updates",
        "validation accuracy, %",
        "table",
        *_accuracy(found),
    )


def _control(task: str, found: Sequence[Tally]) -> Figure:
    return Figure(
        f"{task}-control.png",
        f"Control, layer norm, fast weights, R = {CONTROL_SIZE}",
        "The comparison of github.com/GokuMohandas/fast-weights: a recurrent network of rectified "
        "units without layer norm and memory, one with layer norm (S = 0 reads no memory), and one "
        "with both. Validation accuracy: mean over the seeds, and the range of the seeds.",
        "updates",
        "validation accuracy, %",
        "control",
        *_accuracy(found),
    )


def _harder(task: str, found: Sequence[Tally]) -> Figure:
    sizes = " and ".join(map(str, HARDER_SIZES))
    without = [tally.cell for tally in found if not tally.errors]
    missing = [f"{cell.model} R={cell.size} K={cell.pairs}" for cell in without]
    lines = []
    for size in HARDER_SIZES:
        for model in dict.fromkeys(tally.cell.model for tally in found):
            own = [t for t in found if (t.cell.model, t.cell.size) == (model, size) and t.errors]
            if own:
                errors = [tally.errors for tally in own]
                lines.append(
                    Line(
                        model,
                        model,
                        f"R = {size}",
                        tuple(float(tally.cell.pairs or 0) for tally in own),
                        tuple(statistics.fmean(each) for each in errors),
                        tuple(min(each) for each in errors),
                        tuple(max(each) for each in errors),
                    )
                )
    return Figure(
        f"{task}-harder.png",
        f"Longer strings, R = {sizes}",
        f"Strings of K = 8 and 16 pairs, {HARDER_EPOCHS} passes over them as they are, in batches "
        f"of {HARDER_BATCH}, for every model, and otherwise the settings of the same R at K = 4, "
        "which were not searched again. "
        "Nothing is published for them. The points at K = 4 are those of the table above.",
        "K, pairs in a string",
        "test error, %",
        "harder",
        tuple(lines),
        tuple(missing),
    )


def _accuracy(found: Sequence[Tally]) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Learning curves, and the cells that have none."""
    lines, missing = [], []
    for tally in found:
        curves = [record.curve for record in tally.records if record.curve]
        if not curves:
            missing.append(tally.cell.name)
            continue
        mean = mean_of([[(step, 100 - error) for step, error in curve] for curve in curves])
        control = tally.cell.group == "control"
        fewer = f" ({seeds_of(mean.x, mean.n)})" if {*mean.n} != {len(tally.records)} else ""
        lines.append(
            Line(
                tally.cell.label + fewer,
                "layer norm" if control and "S = 0" in tally.cell.label else tally.cell.model,
                "",
                mean.x,
                mean.middle,
                mean.low,
                mean.high,
            )
        )
    return tuple(lines), tuple(missing)
