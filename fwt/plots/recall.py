"""Error of recall against the number of stored pairs: theory as a line, measurements as points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fwt.fwcore.analysis.associator import Point
from fwt.plots.canvas import sheet
from fwt.plots.settings import defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@defaults()
def recall_error(points: Sequence[Point], title: str, error: str) -> Figure:
    """The points with bars of two standard errors; both axes begin at 0.

    Args:
        points: in order of their pairs.
        title: of the picture.
        error: what the error is called.
    """
    figure, axes = sheet(1, 1, (5, 3.2))
    axis = axes[0, 0]
    pairs = [point.pairs for point in points]
    axis.plot(pairs, [point.theory for point in points], "-", color="0.6", label="theory")
    axis.errorbar(
        pairs,
        [point.mean for point in points],
        yerr=[2 * point.standard_error for point in points],
        fmt="o",
        color="0.0",
        markersize=4,
        capsize=3,
        label="measured, two standard errors",
    )
    axis.set_xlabel("n, stored pairs")
    axis.set_ylabel(error)
    axis.set_title(title)
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure
