"""Processes that `mlx.launch` started, connected by `mlx.core.distributed`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training import launcher
from fwt.fwcore.training.ranks import SINGLE, Ranks

SIGNS = ("[ring]", "[mpi]", "[nccl]", "[jaccl]")  # what MLX's own errors begin with


class MlxRanks:
    """`Ranks` of MLX: the ring of `mlx.launch`, or what else MLX was started with.

    Attributes:
        group: MLX's own name for them.
    """

    def __init__(self) -> None:
        self.group = mx.distributed.init(strict=True)
        self.number, self.count = self.group.rank(), self.group.size()

    def total(self, values: NumpyArray) -> NumpyArray:
        with mx.stream(mx.cpu):
            given = mx.array(np.asarray(values, dtype=np.float64), dtype=mx.float64)
            return np.array(mx.distributed.all_sum(given, group=self.group))

    def is_rank_lost(self, error: RuntimeError) -> bool:
        return str(error).lower().startswith(SIGNS)


def ranks() -> Ranks:
    """The processes of the launcher that started this one, connected."""
    job = launcher.job_of("mlx")
    if job.count == 1:
        return SINGLE
    with launcher.connecting(job):
        return MlxRanks()
