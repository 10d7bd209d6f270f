"""The pictures of a page, each with words for those who do not see it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from fwt.plots import attention
from fwt.plots import curves as learning
from fwt.plots.curves import Curve, Run
from fwt.plots.settings import defaults
from fwt.plots.styles import STYLES
from fwt.report.confusion import confusion
from fwt.report.examples import Judged, Seen
from fwt.report.inline import inline
from fwt.tasks.base import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = len(STYLES)  # settings of a sweep in one picture: more lines are not told apart
CURVES = (("error", "val"), ("loss", "val"), ("loss", "train"))  # what is drawn of every run
SIZE = (4.4, 3.0)  # inches of learning curves without a legend
LINE, LETTERS = 0.2, 48  # inches of a line of the legend, and how many letters it has
WIDER = 1.1  # times the size of glimpses
RANGE = 5  # where the largest number is more times the least, the axis is logarithmic


@dataclass(frozen=True)
class Picture:
    """A picture as the page has it.

    Attributes:
        svg: the element.
        width: in CSS pixels, at which its text is as large as it says.
        words: what it shows.
    """

    svg: str
    width: int
    words: str


class Album:
    """Makes the pictures of one page; their ids never meet."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def _picture(self, figure: Figure, words: str) -> Picture:
        return Picture(*inline(figure, f"p{next(self._numbers)}", words), words)

    def curves(self, runs: Sequence[Run]) -> list[Picture]:
        """Validation error, validation loss and training loss; those that any run has told."""
        return [
            self._curves(found, y, split)
            for y, split in CURVES
            if (found := learning.curves(runs, "updates", y, split))
        ]

    def errors(self, runs: Sequence[Run]) -> list[Picture]:
        """The validation error alone; no picture if no run has told any."""
        found = learning.curves(runs, "updates", "error", "val")
        return [self._curves(found, "error", "val")] if found else []

    @defaults()
    def _curves(self, found: list[Curve], y: str, split: str) -> Picture:
        least, most = min(min(each.low) for each in found), max(max(each.high) for each in found)
        logarithmic = 0 < RANGE * least < most
        figure = learning.draw(found, "updates", y, split, logarithmic)
        figure.axes[0].locator_params(axis="x", nbins=5)
        _legend_below(figure)
        ends = "; ".join(
            f"{curve.label}: {curve.ends}"
            + ("" if "after" in curve.ends else f" after {curve.x[-1]:,.0f}")
            for curve in found
        )
        where = "validation" if split == "val" else "training"
        return self._picture(figure, f"{where} {learning.Y[y]}, against updates. Last: {ends}")

    def confusion(self, found: Judged) -> Picture:
        """Which classes are taken for which."""
        counts, classes = np.array(found.facts["confusion"]), found.facts["classes"]
        mistakes = counts - np.diag(np.diag(counts))
        words = f"Confusion matrix: {found.facts['wrong']} of {found.facts['examples']} are wrong"
        if found.facts["wrong"]:
            row, column = np.unravel_index(mistakes.argmax(), mistakes.shape)
            words += (
                f"; most often {classes[row]} is taken for {classes[column]}, "
                f"{mistakes[row, column]} times"
            )
        return self._picture(confusion(counts, classes), words)

    def example(self, found: Seen, reader: Reader) -> Picture | None:
        """What the network attends to in an example; None for symbols without fast memory."""
        facts, views = found.facts, reader.pictures(found.inputs)
        reads = any(step.reads for step in found.trace.steps)
        if views is None and not reads:
            return None
        title = f"{facts['target']}, answer {facts['answer']}"
        if views is None:
            title = f"{facts['text']}: {title}"
            figure = attention.heat_map(found.trace, found.labels, title, "attention")
        else:
            figure = attention.glimpses(found.trace, *views, found.labels, title)
            width, height = figure.get_size_inches()
            figure.set_size_inches(WIDER * width, WIDER * height)  # room for larger letters
        return self._picture(figure, " ".join(_words(facts, views is not None)))


def _legend_below(figure: Figure) -> None:
    """Put the legend under the axes, its labels in lines: they may be long."""
    axis: Any = figure.axes[0]
    handles, labels = axis.get_legend_handles_labels()
    axis.get_legend().remove()
    labels = [textwrap.fill(label, LETTERS) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_size_inches(SIZE[0], SIZE[1] + LINE * lines)
    legend = figure.legend(handles, labels, loc="outside lower left", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _words(facts: dict[str, Any], pictured: bool) -> Iterator[str]:
    """An example in words: what it is, and what the last step looks at."""
    shown = f"Image {facts['number']} with its glimpses" if pictured else f"String {facts['text']}"
    yield f"{shown}: true class {facts['target']}, answer {facts['answer']}."
    last = facts["steps"][-1]["reads"]
    if last and last[-1]["attention"]:
        best = sorted(last[-1]["attention"].items(), key=lambda pair: -pair[1])[:3]
        named = (f"{facts['steps'][int(t)]['input']} (step {t}, {w:.2f})" for t, w in best)
        yield f"The last step attends most to {', '.join(named)}."
