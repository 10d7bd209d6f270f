"""Several processes, called ranks, that train one model together: each takes its part of a batch.

The gradients are averaged over the ranks before every update, so the weights are the same
everywhere and are those of one process with the whole batch, up to rounding. Rank 0 alone writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fwt.fwcore.errors import ConfigError, RankLostError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.checkpoint import Progress
from fwt.fwcore.storage.runs import Weighted


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

    def is_rank_lost(self, error: RuntimeError) -> bool:
        """Whether the framework says by this error that a rank is gone or silent."""
        ...


class Single:
    """One process."""

    number, count = 0, 1

    def total(self, values: NumpyArray) -> NumpyArray:
        return values

    def is_rank_lost(self, error: RuntimeError) -> bool:
        return False


SINGLE = Single()


def gather(ranks: Ranks, value: float) -> NumpyArray:
    """A number of each rank, float64 (count,)."""
    mine = np.zeros(ranks.count)
    mine[ranks.number] = value
    return ranks.total(mine)


def broadcast(ranks: Ranks, values: NumpyArray) -> NumpyArray:
    """What rank 0 has, on every rank; the others give an array of its shape."""
    own = np.asarray(values, dtype=np.float64)
    return ranks.total(own if ranks.number == 0 else np.zeros_like(own))


def broadcast_text(ranks: Ranks, text: str) -> str:
    """A text of rank 0, on every rank."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    length = int(gather(ranks, len(data))[0])
    common = broadcast(ranks, data if ranks.number == 0 else np.empty(length))
    return common.astype(np.uint8).tobytes().decode()


def broadcast_arrays(ranks: Ranks, arrays: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
    """Arrays of rank 0 in their own types, on every rank; the others give some of their shapes."""
    return {name: broadcast(ranks, a).astype(a.dtype) for name, a in sorted(arrays.items())}


def check_together(ranks: Ranks, spec: RunSpec) -> None:
    """Refuse ranks that cannot train this run together.

    Raises:
        ConfigError: they were given other settings, or the batch cannot be shared out evenly.
    """
    digests = gather(ranks, int(spec.digest(), 16))
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


def no_answer(ranks: Ranks, error: RuntimeError) -> RankLostError:
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
    common = Progress.model_validate_json(broadcast_text(ranks, progress.model_dump_json()))
    if common.step:
        weights = broadcast_arrays(ranks, model.parameters())
        moments = broadcast_arrays(ranks, model.optimizer_state())
        if ranks.number:
            model.load_parameters(weights)
            model.load_optimizer_state(moments, common.step)
    return common


def share_weights(ranks: Ranks, model: Weighted) -> None:
    """Put rank 0's weights into the models of all ranks."""
    if ranks.count > 1:
        weights = broadcast_arrays(ranks, model.parameters())
        if ranks.number:
            model.load_parameters(weights)
