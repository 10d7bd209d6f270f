"""What the training loop asks of a model, and of several of one shape that learn in lock-step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fwt.fwcore.ops import Array, NumpyArray
from fwt.fwcore.spec import TrainSpec
from fwt.fwcore.storage.runs import Weighted
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.ranks import SINGLE, Ranks, no_answer


class Trainable(Protocol):
    """What the loop asks of a model; `fwt.backends.contract.Compiled` adds the rest."""

    def parameters(self) -> dict[str, NumpyArray]:
        """All weights by canonical name, canonical axes, in float32 or float64."""
        ...

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None:
        """Replace all weights.

        Raises:
            CheckpointError: a name, shape or type does not fit; every difference is named.
        """
        ...

    def begin_training(self, train: TrainSpec, data: Split, ranks: Ranks = SINGLE) -> None:
        """Set up the optimiser with zero moments, and put the training split on the device.

        Gradients are averaged over the ranks; those of several are the backend's own.
        """
        ...

    def train_step(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> Array:
        """One update.

        Args:
            rows: which examples of the training split, int64 (B,); on several ranks this one's.
            lr: the learning rate of this update.
            dropout: masks, or None.

        Returns:
            Mean loss (nats), wrong answers (count) and global gradient norm before clipping, as
            one array (3,) of the framework that need not have been computed yet.
        """
        ...

    def fetch(self, stats: Sequence[Array]) -> NumpyArray:
        """What `train_step` returned, n of them, as float64 (n, 3)."""
        ...

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[float, int]:
        """Sum of the losses (nats) and number of wrong answers of a batch."""
        ...

    def optimizer_state(self) -> dict[str, NumpyArray]:
        """Adam's moments as `m.<name>` and `v.<name>`, canonical axes."""
        ...

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None:
        """Replace the moments; `step` updates were made so far."""
        ...


class Lockstep(Protocol):
    """What the loop asks of P models of one shape; `fwt.backends.contract` adds the rest."""

    @property
    def members(self) -> Sequence[Weighted]:
        """Each model's weights and moments."""
        ...

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        """The P specs differ in seed and learning rate alone."""
        ...

    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> Array:
        """One update of every model.

        Args:
            rows: which examples of the training split, int64 (P, B).
            lrs: the learning rates of this update, float64 (P,).
            dropout: masks (P, B, I) and (P, B, R), or None.

        Returns:
            The statistics of `Trainable.train_step` of all of them in one array, not awaited.
        """
        ...

    def fetch(self, stats: Sequence[Array]) -> NumpyArray:
        """What `train_step` returned, n of them, as float64 (n, P, 3)."""
        ...

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        """Sum of the losses (nats) and number of wrong answers of each model, float64 (P, 2)."""
        ...


class Alone:
    """A single model as a `Lockstep`."""

    def __init__(self, model: Trainable) -> None:
        self.model = model
        self.members = (model,)

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        self.model.begin_training(trains[0], data)

    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> Array:
        masks = dropout and Dropout(*(None if mask is None else mask[0] for mask in dropout))
        return self.model.train_step(rows[0], float(lrs[0]), masks)

    def fetch(self, stats: Sequence[Array]) -> NumpyArray:
        return self.model.fetch(stats)[:, None]

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        return np.array([self.model.evaluate(inputs, targets)])


class Spread:
    """One model on several ranks as a `Lockstep`.

    Args:
        model: this rank's copy.
        ranks: the job's processes.
    """

    def __init__(self, model: Trainable, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.members = (model,)

    def _part(self, array: NumpyArray) -> NumpyArray:
        """What this rank takes of an array that has a row for each example of a batch."""
        size = len(array) // self.ranks.count
        return array[self.ranks.number * size : (self.ranks.number + 1) * size]

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        self.model.begin_training(trains[0], data, self.ranks)

    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> Array:
        masks = dropout and Dropout(
            *(None if mask is None else self._part(mask[0]) for mask in dropout)
        )
        try:
            return self.model.train_step(self._part(rows[0]), float(lrs[0]), masks)
        except RuntimeError as error:
            if self.ranks.is_rank_lost(error):
                raise no_answer(self.ranks, error) from error
            raise

    def fetch(self, stats: Sequence[Array]) -> NumpyArray:
        """Mean loss, all wrong answers, the norm, which all ranks share."""
        count = self.ranks.count
        return self.ranks.total(self.model.fetch(stats) * (1 / count, 1.0, 1 / count))[:, None]

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        """The examples are shared out as evenly as they can be."""
        edges = np.arange(self.ranks.count + 1) * len(targets) // self.ranks.count
        own = slice(edges[self.ranks.number], edges[self.ranks.number + 1])
        sums = np.zeros((1, 2))
        if own.stop > own.start:
            sums[0] = self.model.evaluate(inputs[own], targets[own])
        return self.ranks.total(sums)
