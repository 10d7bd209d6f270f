"""Random numbers: NumPy Philox streams keyed by seed and purpose, the same on every machine.

Only the raw 64-bit words of the generator are used, because NumPy promises those (and not
its distributions) to stay the same from version to version.
"""

from __future__ import annotations

import hashlib

import numpy as np

from fwt.fwcore.ops import NumpyArray


class Stream:
    """One stream of random numbers, a pure function of `(seed, *purpose)`.

    Args:
        seed: any integer; 0 is a seed like every other.
        purpose: what the numbers are for, e.g. `("weights", "core.w")` or `("shuffle", 3)`.
    """

    def __init__(self, seed: int, *purpose: str | int) -> None:
        label = "\x1f".join([str(int(seed)), *map(str, purpose)])
        digest = hashlib.sha256(label.encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def words(self, count: int) -> NumpyArray:
        """`count` raw words, uint64."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> NumpyArray:
        """Float64 numbers, uniform in [low, high), 53 random bits each."""
        count = int(np.prod(shape, dtype=np.int64))
        unit = (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * unit).reshape(shape)

    def integers(self, bound: int, shape: tuple[int, ...]) -> NumpyArray:
        """Int64 numbers, uniform in 0..bound-1 (the bias, below bound / 2**53, is ignored)."""
        return np.asarray(np.floor(self.uniform(shape) * bound), dtype=np.int64)

    def permutation(self, count: int) -> NumpyArray:
        """A permutation of 0..count-1, int64."""
        return np.asarray(np.argsort(self.words(count), kind="stable"), dtype=np.int64)

    def permutations(self, rows: int, count: int) -> NumpyArray:
        """`rows` independent permutations of 0..count-1, shape (rows, count), int64."""
        keys = self.words(rows * count).reshape(rows, count)
        return np.argsort(keys, axis=1, kind="stable").astype(np.int64)
