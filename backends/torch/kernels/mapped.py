"""An operator under `torch.vmap`: the members of a population one by one, or on their own axis."""

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


def as_members(
    info: Any, axes: tuple[Any, ...], given: tuple[Any, ...], own: tuple[int, ...]
) -> list[Any]:
    """The arguments of one call for all members, whose axis becomes a part of the first.

    Args:
        info, axes: as `one_by_one`; an array that is a list of arrays has a list of axes.
        own: places of the arguments whose first axis is that of members.
    """

    def flat(argument: Any, axis: Any) -> Any:
        if isinstance(argument, list):
            return [flat(a, d) for a, d in zip(argument, axis, strict=True)]
        many = argument[None] if axis is None else argument.movedim(axis, 0)
        return many.expand(info.batch_size, *many.shape[1:]).flatten(0, 1)

    return [flat(a, axes[i]) if i in own else a for i, a in enumerate(given)]
