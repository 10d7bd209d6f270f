"""The linear associator and Hopfield storage: what fast weights are before anything is learned.

A = sum over pairs of value key^T is what eq. 1 of Ba et al. 2016 builds with decay 1, rate 1 and
values equal to keys (Kohonen 1972; Anderson 1972; Hopfield 1982). Orthonormal keys are recalled
perfectly; random ones disturb each other, by amounts that have formulas. Letters: R numbers of a
key or value, n pairs, age a: how many pairs were stored after one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream

KEYS = ("random", "orthonormal")


def store(keys: NumpyArray, values: NumpyArray, decay: float = 1.0) -> NumpyArray:
    """A = sum of decay^age value key^T of pairs stored in order: (n, R), (n, R) -> (R, R)."""
    ages = np.arange(len(keys) - 1, -1, -1)
    return np.asarray((values * decay ** ages[:, None]).T @ keys)


def recall(fast: NumpyArray, queries: NumpyArray) -> NumpyArray:
    """A q of each query: (R, R), (n, R) -> (n, R)."""
    return queries @ fast.T


def unit_keys(kind: str, size: int, pairs: int, stream: Stream) -> NumpyArray:
    """N keys of length 1, (n, R).

    Args:
        kind: `random`: independent signs over sqrt(R); `orthonormal`: the Q of such a matrix.
        size: R.
        pairs: n.
        stream: the random numbers.

    Raises:
        ConfigError: more than R orthonormal keys, or another kind.
    """
    if kind == "random":
        return signs(stream, (pairs, size)) / math.sqrt(size)
    if kind != "orthonormal":
        raise ConfigError(f"associator: expected keys {' or '.join(KEYS)}, got keys={kind!r}")
    if pairs > size:
        raise ConfigError(
            f"associator: expected at most R={size} orthonormal keys, got pairs={pairs}"
        )
    q, _ = np.linalg.qr(stream.uniform((size, size), -1.0, 1.0))
    return np.asarray(q[:pairs])


def signs(stream: Stream, shape: tuple[int, ...]) -> NumpyArray:
    """Independent signs, -1.0 or 1.0."""
    return np.asarray(2.0 * stream.integers(2, shape) - 1.0)


def crosstalk(size: int, pairs: int, age: int, decay: float = 1.0) -> float:
    """Expected squared error of one recall over the squared length of what is recalled.

    Random keys k with E (k_i . k_j)^2 = 1 / R and values of length 1: the recall of the pair of an
    age is decay^age v plus decay^a_j v_j (k_j . k) of all others, which are independent. So it is
    the sum of decay^(2 a_j) over the others, over R decay^(2 age); with decay 1, (n - 1) / R.
    """
    others = [decay ** (2 * other) for other in range(pairs) if other != age]
    return sum(others) / (size * decay ** (2 * age))


def measured_crosstalk(
    kind: str, size: int, pairs: int, age: int, decay: float, trials: int, seed: int
) -> NumpyArray:
    """The squared relative error of recalling the pair of an age, for each of the trials."""
    found = np.empty(trials)
    for trial in range(trials):
        stream = Stream(seed, "associator", kind, size, pairs, trial)
        keys = unit_keys(kind, size, pairs, stream)
        values = signs(stream, (pairs, size)) / math.sqrt(size)
        place = pairs - 1 - age
        want = decay**age * values[place]
        got = recall(store(keys, values, decay), keys[place : place + 1])[0]
        found[trial] = ((got - want) ** 2).sum() / (want**2).sum()
    return found


def hopfield_weights(patterns: NumpyArray) -> NumpyArray:
    """W = sum of x x^T / R without its diagonal (Hopfield 1982, eq. 2): (n, R) -> (R, R)."""
    fast: NumpyArray = store(patterns, patterns) / patterns.shape[1]
    np.fill_diagonal(fast, 0.0)
    return fast


def hopfield_step(weights: NumpyArray, states: NumpyArray) -> NumpyArray:
    """All units at once: the sign of W x, 1 where it is 0; (n, R) -> (n, R)."""
    return np.asarray(np.where(recall(weights, states) >= 0, 1.0, -1.0))


def bit_error(size: int, pairs: int) -> float:
    """The share of bits that the first step flips in a stored pattern of random signs.

    A bit is disturbed by (n - 1)(R - 1) random signs over R, for large R a normal number of
    variance (n - 1) / R; it outweighs the bit in erfc(sqrt(R / (2 (n - 1)))) / 2 of all cases
    (Hertz, Krogh & Palmer 1991, section 2.2).
    """
    if pairs == 1:
        return 0.0
    return 0.5 * math.erfc(math.sqrt(size / (2 * (pairs - 1))))


def measured_bit_error(size: int, pairs: int, trials: int, seed: int) -> NumpyArray:
    """The share of flipped bits in each of the trials."""
    found = np.empty(trials)
    for trial in range(trials):
        patterns = signs(Stream(seed, "hopfield", size, pairs, trial), (pairs, size))
        found[trial] = (hopfield_step(hopfield_weights(patterns), patterns) != patterns).mean()
    return found


@dataclass(frozen=True)
class Point:
    """A number of pairs, what the theory says of it and what was measured.

    Attributes:
        pairs: n.
        theory: the formula's error.
        mean: the measured error's mean.
        standard_error: of that mean.
    """

    pairs: int
    theory: float
    mean: float
    standard_error: float


def point(pairs: int, theory: float, samples: NumpyArray) -> Point:
    """A `Point` from the measured errors of all trials."""
    spread = float(samples.std(ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else 0.0
    return Point(pairs, theory, float(samples.mean()), spread)


def capacity(size: int, error: float, kind: str) -> int:
    """The most pairs whose expected error stays within `error`.

    Args:
        size: R.
        error: of `crosstalk` without decay (`linear`), or of `bit_error` (`hopfield`).
        kind: `linear` or `hopfield`.
    """

    def within(pairs: int) -> bool:
        found = crosstalk(size, pairs, 0) if kind == "linear" else bit_error(size, pairs)
        return found <= error

    pairs = 1
    while within(pairs + 1):
        pairs += 1
    return pairs
