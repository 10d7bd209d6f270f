"""Attention to the past as a picture: symbols against symbols, or glimpses in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fwt.fwcore.analysis.trace import Trace
from fwt.fwcore.ops import NumpyArray
from fwt.plots.canvas import sheet
from fwt.plots.settings import defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6  # glimpses in a row: a level of the multi-level policy
FORMULA = r"$\eta\,\lambda^{t-\tau}\,h(\tau)\cdot h_s$"


def matrix_of(found: Trace, inner: int) -> NumpyArray:
    """Attention of the first sequence, (T, T): row t is step t's look at the steps before it.

    Args:
        found: the trace.
        inner: which read of a time step, from 0. Steps without it, or with nothing stored, and
            steps that are not stored are NaN.
    """
    steps = len(found.steps)
    weights = np.full((steps, steps), np.nan)
    for t, step in enumerate(found.steps):
        if inner < len(step.reads):
            read = step.reads[inner]
            weights[t, list(read.steps)] = read.weights[0]
    return weights


@defaults()
def heat_map(found: Trace, labels: Sequence[str], title: str, measure: str = FORMULA) -> Figure:
    """Attention of every inner step: which time step (row) looks at which (column).

    Args:
        found: the trace.
        labels: what each time step is called.
        title: of the picture.
        measure: what the shades are called.
    """
    inner = max((len(step.reads) for step in found.steps), default=0)
    side = 1.2 + 0.28 * len(labels)
    figure, axes = sheet(1, inner, (max(side, 3.2) * inner + 0.8, max(side, 3.0)))
    for number, axis in enumerate(axes[0]):
        weights = matrix_of(found, number)
        image = axis.imshow(weights, cmap="Greys", vmin=0)
        axis.set_xticks(range(len(labels)), labels)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xlabel("looked at")
        axis.set_ylabel("looking")
        axis.set_title(title if inner == 1 else f"{title}, read {number + 1}")
        bar: Any = figure.colorbar(image, ax=axis, label=measure)
        bar.solids.set_rasterized(True)  # in an SVG one picture, like the map itself
    return figure


@defaults()
def glimpses(
    found: Trace, whole: NumpyArray, views: NumpyArray, labels: Sequence[str], title: str
) -> Figure:
    """The image, then its glimpses in order, each with the last step's attention to it.

    A glimpse without a number was not stored.

    Args:
        found: the trace.
        whole: the image, (H, W) in [0, 1].
        views: the glimpses, (T, h, w) in [0, 1].
        labels: what each time step is called.
        title: of the picture.
    """
    weights = matrix_of(found, max(len(found.steps[-1].reads) - 1, 0))[-1]
    rows = -(-len(views) // COLUMNS)
    figure, axes = sheet(rows, 1 + COLUMNS, (1.1 * (1 + COLUMNS), 1.45 * rows + 0.3))
    for axis in axes.flat:
        axis.set_axis_off()
    _shown(axes[0, 0], whole, title)
    for t, (axis, view) in enumerate(zip(axes[:, 1:].flat, views, strict=False)):
        seen = "" if np.isnan(weights[t]) else f"\nattention {weights[t]:.2f}"
        _shown(axis, view, f"{t} {labels[t]}{seen}")
    return figure


def _shown(axis: Any, picture: NumpyArray, title: str) -> None:
    """A picture in a frame."""
    axis.imshow(picture, cmap="Greys", vmin=0, vmax=1)
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7)


@defaults()
def spectra(found: Trace, values: Sequence[NumpyArray | None]) -> Figure:
    """The eigenvalues of A after every time step, largest first, each a line.

    Args:
        found: the trace.
        values: for each step the eigenvalues, or None while nothing is stored.
    """
    figure, axes = sheet(1, 1, (5, 3.2))
    axis = axes[0, 0]
    shown = np.array([v for v in values if v is not None])
    times = [t for t, v in enumerate(values) if v is not None]
    for number in range(min(8, shown.shape[1] if shown.size else 0)):
        axis.plot(times, shown[:, number], color=str(0.09 * number), marker=".", label=number + 1)
    axis.set_xlabel(f"time step, of {len(found.steps)}")
    axis.set_ylabel("eigenvalue of A(t)")
    axis.legend(title="largest", ncols=2)
    return figure
