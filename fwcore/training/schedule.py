"""The learning rate of each update, a pure function of its number."""

from __future__ import annotations

import math

from fwt.fwcore.spec import TrainSpec


def learning_rate(train: TrainSpec, step: int, total: int) -> float:
    """The learning rate of update `step` (counted from 0) of `total`.

    `constant` is lr; `cosine` is lr/2 (1 + cos(pi step / total)), from lr down to almost 0
    (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, one cycle).
    """
    if train.schedule == "constant":
        return train.lr
    return 0.5 * train.lr * (1 + math.cos(math.pi * step / total))
