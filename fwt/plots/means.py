"""The mean of several seeds' curves, and at every place how many seeds it is of."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mean:
    """The mean over seeds.

    Attributes:
        x: the places of all seeds' points, ascending.
        middle, low, high: mean, least and largest there.
        n: of how many seeds.
    """

    x: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]


def mean_of(curves: Sequence[Points]) -> Mean:
    """The mean of the seeds that reach a place, at each place where one of them has a point.

    A seed reaches the places from its first point to its last. Between two points it is on the
    line that joins them, as it is drawn; nothing is assumed before and after them.

    Args:
        curves: of each seed its points (x, y), ascending in x.
    """
    given = [np.array(points, np.float64).reshape(-1, 2).T for points in curves if points]
    places = np.unique(np.concatenate([x for x, _ in given])) if given else np.empty(0)
    values = [np.interp(places, x, y, left=np.nan, right=np.nan) for x, y in given]
    rows = [row[~np.isnan(row)].tolist() for row in np.array(values).T]
    return Mean(
        tuple(places.tolist()),
        tuple(map(statistics.fmean, rows)),
        tuple(map(min, rows)),
        tuple(map(max, rows)),
        tuple(map(len, rows)),
    )


def seeds_of(x: Sequence[float], n: Sequence[int]) -> str:
    """How many seeds a mean is of, in words: `2 seeds`, or `2 seeds to 60, 1 to 200`."""
    ends = [at for at in range(len(n)) if at + 1 == len(n) or n[at + 1] != n[at]]
    first, *rest = [(n[at], f" to {x[at]:,.0f}" if len(ends) > 1 else "") for at in ends]
    head = f"{first[0]} seed{'s' if first[0] != 1 else ''}{first[1]}"
    return ", ".join([head, *(f"{count}{to}" for count, to in rest)])
