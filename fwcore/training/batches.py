"""Batches and dropout masks, pure functions of (seed, update number), so a resume saves none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream


@dataclass(frozen=True)
class Split:
    """One part of a dataset, all examples at once.

    Attributes:
        inputs: (N, T) int64 symbol numbers, or (N, T, I) float32.
        targets: (N,) int64 class numbers.
    """

    inputs: NumpyArray
    targets: NumpyArray

    def __len__(self) -> int:
        return len(self.targets)


class Dropout(NamedTuple):
    """Masks of a batch in float32: 0 where dropped, 1 / (1 - fraction) where kept.

    Attributes:
        inputs: for the encoder's outputs, (B, I), or None.
        hidden: for the last hidden state, (B, R), or None.
    """

    inputs: NumpyArray | None
    hidden: NumpyArray | None


@dataclass(frozen=True)
class Data:
    """The three splits of a task."""

    train: Split
    val: Split
    test: Split


@dataclass
class BatchOrder:
    """Which examples an update sees: each epoch a new permutation, cut into whole batches.

    The examples left over at the end of an epoch are dropped; the next epoch shuffles anew.

    Attributes:
        seed: of the permutations.
        examples: N, size of the training split.
        batch: B, examples an update.

    Raises:
        ConfigError: a batch is larger than the split.
    """

    seed: int
    examples: int
    batch: int

    def __post_init__(self) -> None:
        if self.batch > self.examples:
            raise ConfigError(
                f"train.batch_size: expected at most the {self.examples} training examples, "
                f"got batch_size={self.batch}; take a smaller one"
            )
        self._epoch = -1
        self._order: NumpyArray = np.empty(0, dtype=np.int64)

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch."""
        return self.examples // self.batch

    def rows(self, step: int) -> NumpyArray:
        """The examples of update `step` (from 0), int64 (B,)."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = Stream(self.seed, "shuffle", epoch).permutation(self.examples)
            self._epoch = epoch
        return self._order[place * self.batch : (place + 1) * self.batch]


def dropout_mask(
    seed: int, where: str, step: int, fraction: float, shape: tuple[int, int]
) -> NumpyArray | None:
    """One mask of `Dropout` for update `step`; None where nothing is dropped."""
    if fraction == 0:
        return None
    kept = Stream(seed, "dropout", where, step).uniform(shape) >= fraction
    return np.asarray(kept / (1 - fraction), dtype=np.float32)


def dropout(
    seed: int, step: int, fractions: tuple[float, float], batch: int, sizes: tuple[int, int]
) -> Dropout | None:
    """The masks of update `step`; None where nothing at all is dropped.

    Args:
        fractions: dropped of the encoder's outputs and of the last hidden state.
        sizes: I and R.
    """
    if not any(fractions):
        return None
    places = zip(("inputs", "hidden"), fractions, sizes, strict=True)
    return Dropout(*(dropout_mask(seed, at, step, part, (batch, n)) for at, part, n in places))
