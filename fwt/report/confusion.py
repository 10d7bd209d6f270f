"""Which classes are taken for which: a matrix whose shades are the mistakes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.plots.canvas import sheet
from fwt.plots.settings import defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARKEST = 0.45  # of black: numbers can be read on it, and on its inverse too


@defaults()
def confusion(counts: NumpyArray, classes: Sequence[str]) -> Figure:
    """Counts of examples: the true class is the row, the answer the column.

    Right answers stand on the diagonal, unshaded: they are so many that no mistake would be seen.

    Args:
        counts: (classes, classes).
        classes: what they are called.
    """
    mistakes = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    shades = mistakes / max(int(mistakes.max()), 1)
    side = 0.8 + 0.4 * len(classes)
    figure, axes = sheet(1, 1, (side, side))
    axis = axes[0, 0]
    axis.imshow(DARKEST * shades, cmap="Greys", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        axis.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontweight="bold" if row == column else "normal",
        )
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("answer")
    axis.set_ylabel("true class")
    return figure
