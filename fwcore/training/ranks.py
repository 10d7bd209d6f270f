"""Several processes, called ranks, that train one model together: each takes its part of a batch.

The gradients are averaged over the ranks before every update, so the weights are the same
everywhere and are those of one process with the whole batch, up to rounding. Rank 0 alone writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fwt.fwcore.errors import ConfigError, RankLostError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec, TrainSpec
from fwt.fwcore.storage.checkpoint import Progress
from fwt.fwcore.storage.runs import Weighted
from fwt.fwcore.training.batches import Dropout, Split


class Ranks(Protocol):
    """The processes of a job, as the backend's framework connects them.

    Attributes:
        number: this process, from 0.
        count: how many there are.
    """

    number: int
    count: int

    def total(self, values: NumpyArray) -> NumpyArray:
        """The sum over all ranks of float64 arrays of one shape; each rank waits for the others."""
        ...

    def broken(self, error: RuntimeError) -> bool:
        """Whether the framework says by this error that a rank is gone or silent."""
        ...


class Single:
    """One process."""

    number, count = 0, 1

    def total(self, values: NumpyArray) -> NumpyArray:
        return values

    def broken(self, error: RuntimeError) -> bool:
        return False


SINGLE = Single()


def everyones(ranks: Ranks, value: float) -> NumpyArray:
    """A number of each rank, float64 (count,)."""
    mine = np.zeros(ranks.count)
    mine[ranks.number] = value
    return ranks.total(mine)


def shared(ranks: Ranks, values: NumpyArray) -> NumpyArray:
    """What rank 0 has, on every rank; the others give an array of its shape."""
    given = np.asarray(values, dtype=np.float64)
    return ranks.total(given if ranks.number == 0 else np.zeros_like(given))


def shared_text(ranks: Ranks, text: str) -> str:
    """A text of rank 0, on every rank."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    length = int(everyones(ranks, len(data))[0])
    found = shared(ranks, data if ranks.number == 0 else np.empty(length))
    return found.astype(np.uint8).tobytes().decode()


def shared_arrays(ranks: Ranks, arrays: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
    """Arrays of rank 0 in their own types, on every rank; the others give some of their shapes."""
    return {name: shared(ranks, a).astype(a.dtype) for name, a in sorted(arrays.items())}


def check_together(ranks: Ranks, spec: RunSpec) -> None:
    """Refuse ranks that cannot train this run together.

    Raises:
        ConfigError: they were given other settings, or the batch cannot be shared out evenly.
    """
    digests = everyones(ranks, int(spec.digest(), 16))
    if len(set(digests)) > 1:
        raise ConfigError(
            f"train: expected the same settings on all {ranks.count} processes, got others on "
            f"process {int(np.argmax(digests != digests[0]))}"
        )
    if spec.train.batch_size % ranks.count:
        raise ConfigError(
            f"train.batch_size: expected a multiple of the {ranks.count} processes, which share "
            f"each batch evenly, got batch_size={spec.train.batch_size}"
        )


class Spread:
    """One model on several ranks as a `fwt.fwcore.training.lockstep.Lockstep`.

    Args:
        model: this rank's copy, a `fwt.fwcore.training.lockstep.Trainable`.
        ranks: the job's processes.
    """

    def __init__(self, model: Any, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.members: Sequence[Weighted] = (model,)

    def _part(self, array: NumpyArray | None) -> NumpyArray | None:
        """What this rank takes of an array that has a row for each example of a batch."""
        if array is None:
            return None
        size = len(array) // self.ranks.count
        return array[self.ranks.number * size : (self.ranks.number + 1) * size]

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        self.model.begin_training(trains[0], data, self.ranks)

    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> Any:
        masks = dropout and Dropout(
            *(None if mask is None else self._part(mask[0]) for mask in dropout)
        )
        try:
            return self.model.train_step(self._part(rows[0]), float(lrs[0]), masks)
        except RuntimeError as error:
            if self.ranks.broken(error):
                raise lost(self.ranks, error) from error
            raise

    def fetch(self, stats: Sequence[Any]) -> NumpyArray:
        """Mean loss, all wrong answers, the norm, which all ranks share."""
        count = self.ranks.count
        return self.ranks.total(self.model.fetch(stats) * (1 / count, 1.0, 1 / count))[:, None]

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        """The examples are shared out as evenly as they can be."""
        edges = np.arange(self.ranks.count + 1) * len(targets) // self.ranks.count
        own = slice(edges[self.ranks.number], edges[self.ranks.number + 1])
        found = np.zeros((1, 2))
        if own.stop > own.start:
            found[0] = self.model.evaluate(inputs[own], targets[own])
        return self.ranks.total(found)


def lost(ranks: Ranks, error: RuntimeError) -> RankLostError:
    """The error of a rank that cannot reach another."""
    reason = " ".join(str(error).split())
    return RankLostError(
        f"train: expected to hear of all {ranks.count} processes, process {ranks.number} did not: "
        f"{reason[:200]}; the last checkpoint is whole: start them again with --resume"
    )


def share_progress(ranks: Ranks, model: Weighted, progress: Progress | None) -> Progress:
    """Rank 0's progress, with its weights and moments in the models of all ranks.

    Args:
        ranks: the processes.
        model: of this one.
        progress: what rank 0 has; None on the others.
    """
    progress = progress or Progress()
    if ranks.count == 1:
        return progress
    common = Progress.model_validate_json(shared_text(ranks, progress.model_dump_json()))
    if common.step:
        weights = shared_arrays(ranks, model.parameters())
        moments = shared_arrays(ranks, model.optimizer_state())
        if ranks.number:
            model.load_parameters(weights)
            model.load_optimizer_state(moments, common.step)
    return common


def share_weights(ranks: Ranks, model: Weighted) -> None:
    """Put rank 0's weights into the models of all ranks."""
    if ranks.count > 1:
        weights = shared_arrays(ranks, model.parameters())
        if ranks.number:
            model.load_parameters(weights)
