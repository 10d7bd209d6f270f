"""What tests of `fwt bench` measure: shapes, options, sides."""

from __future__ import annotations

from typing import Any

from fwt import backends
from fwt.bench import roofline, suite
from fwt.bench.shapes import Shape
from fwt.bench.subjects import SUBJECTS, framework
from tests.conftest import need

TINY = Shape(2, 3, 4, 1)
QUICK = ("--shape", TINY, "--rounds", 5, "--seconds", 2, "--quiet")
TRAINING = list(backends.TRAINING_ORDER)


def side_of(name: str) -> Any:
    return framework(need(name), "cpu", None)


def options(*measures: str, names: tuple[str, ...] = tuple(SUBJECTS)) -> suite.Options:
    return suite.Options(names, measures, rounds=5, seconds=2.0)


def quiet(text: str) -> None:
    pass


NUMBERS = ("median_ms", "q25_ms", "q75_ms", "iqr_ms", "n", "first_ms", "of_floor", "peak_bytes")
CEILINGS = roofline.Ceilings(1e9, 1e9)
