"""How time and memory grow with the length of the sequences: an exponent fitted to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fwt.bench.roofline import Ceilings
from fwt.bench.shapes import Shape
from fwt.bench.subjects import Framework
from fwt.bench.suite import Options, Row, Tell, rows_of

LENGTHS = tuple(Shape(32, steps, 64, 1) for steps in (250, 500, 1000, 2000, 4000))
SUBJECTS = ("auto", "lstm")
VALUES = {"train": "median_ms", "memory": "peak_bytes"}


def exponent(lengths: Sequence[float], values: Sequence[float]) -> float | None:
    """P of values = c lengths^p by least squares of the logarithms; None below two points."""
    if len(set(lengths)) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def fits(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One exponent a subject and measure, over the lengths that have a number."""
    found = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        for measure, value in VALUES.items():
            points = [
                (row["steps"], row[value])
                for row in rows
                if (row["subject"], row["measure"]) == (subject, measure) and row[value]
            ]
            fit = exponent(*zip(*points, strict=True)) if points else None
            steps = [length for length, _ in points]
            found.append({"subject": subject, "measure": measure, "exponent": fit, "steps": steps})
    return found


def growth(
    side: Framework, options: Options, ceilings: Ceilings, tell: Tell, shapes: Sequence[Shape]
) -> dict[str, Any]:
    """Training time and peak memory of ours and of the LSTM over several lengths."""
    chosen = Options(SUBJECTS, tuple(VALUES), options.rounds, options.seconds)
    rows = [row for shape in shapes for row in rows_of(side, shape, chosen, ceilings, tell)]
    return {"rows": rows, "fits": fits(rows)}
