"""An operator under `torch.vmap`: the members of a population one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_by_one(
    operator: Callable[..., tuple[Tensor, ...]],
    info: Any,
    axes: tuple[int | None, ...],
    *given: Tensor,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results of `operator` for each member, and their axes: a rule for `register_vmap`.

    Args:
        info: its `batch_size` is the number of members.
        axes: along which axis of each array the members lie; None where they share it.
    """
    members = [
        operator(*(a if d is None else a.select(d, i) for a, d in zip(given, axes, strict=True)))
        for i in range(info.batch_size)
    ]
    found = tuple(torch.stack(parts) for parts in zip(*members, strict=True))
    return found, (0,) * len(found)
