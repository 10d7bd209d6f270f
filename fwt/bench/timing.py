"""Times of several subjects, interleaved, so that a drift of the machine hits all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

LEAST = 5  # rounds, however slow a subject is
SHORT_S = 0.02  # a call that takes less is made once more before it counts
WARM = 3  # calls before the first that counts: traces, allocators, caches

Call = Callable[[], object]


def schedule(counts: Mapping[str, int]) -> Iterator[str]:
    """Whose turn it is: round robin, a subject with fewer rounds than another spread evenly.

    Args:
        counts: rounds of each subject.
    """
    most = max(counts.values(), default=0)
    for turn in range(most):
        for name, count in counts.items():
            if (turn + 1) * count // most > turn * count // most:
                yield name


def warmed(call: Call, seconds: float) -> tuple[float, float]:
    """Call until warm, or until the budget is spent: seconds of the first call and of the last."""
    spent: list[float] = []
    while len(spent) < WARM and (not spent or sum(spent) < seconds):
        spent.append(timed(call))
    return spent[0], spent[-1]


def timed(call: Call) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def rounds_for(typical: float, seconds: float, most: int) -> int:
    """How often a call of `typical` seconds fits into a budget; at least `LEAST`."""
    return max(LEAST, min(most, int(seconds / max(typical, 1e-9))))


def measure(
    calls: Mapping[str, Call], counts: Mapping[str, int], short: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of every call of every subject, in the order of `schedule`.

    Args:
        calls: by subject.
        counts: rounds of each subject.
        short: subjects that make one more call before each that counts, because what the one
            before left in the caches would show in so short a time.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for name in schedule(counts):
            if name in short:
                calls[name]()
            samples[name].append(timed(calls[name]))
    finally:
        gc.enable()
    return samples


def summary(samples: Sequence[float], per_sample: int = 1) -> dict[str, float]:
    """Median and interquartile range in milliseconds, and how many samples.

    Args:
        samples: seconds.
        per_sample: steps that a sample holds; the result is for one.
    """
    low, middle, high = (float(q) for q in np.percentile(samples, (25, 50, 75)))
    scale = 1e3 / per_sample
    return {
        "median_ms": middle * scale,
        "q25_ms": low * scale,
        "q75_ms": high * scale,
        "iqr_ms": (high - low) * scale,
        "n": len(samples),
    }
