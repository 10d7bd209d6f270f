"""What an operator may be given: one table for each, held against every call in microseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwt.fwcore.errors import ConfigError

TYPES = (torch.float32, torch.float64)
ALIGNED = 32  # bytes: of the registers that kernels load

Sizes = dict[str, int]


class Array(NamedTuple):
    """An array that an operator is given.

    Attributes:
        axes: the letter of each axis, maybe behind a factor: `B 9H`. A letter is one size, at least
            1, in all arrays of a call.
        dtype: its type; None for the floating type that all such arrays share.
        below: the letter of the size that its whole numbers, from 0 on, are below. On a GPU they
            are not looked at, which would wait for it.
    """

    axes: str
    dtype: torch.dtype | None = None
    below: str | None = None


class Whole(NamedTuple):
    """A whole number that an operator is given, from `least` to `most`."""

    least: int
    most: int


class Table:
    """The arguments of an operator, by name and in their order.

    Args:
        operator: its name, for errors.
        arguments: what each of them is; None where the operator's schema says all.
        derived: letters whose size follows from those before: a function of the sizes by letter,
            among them the whole numbers by name, and `bytes`, of a floating number.
    """

    def __init__(
        self,
        operator: str,
        arguments: Mapping[str, Array | Whole | None],
        derived: Mapping[str, Callable[[Sizes], int]] | None = None,
    ) -> None:
        self.operator, self._derived = operator, derived or {}
        named = list(enumerate(arguments.items()))
        self._count = len(named)
        self._arrays = [(i, name, a) for i, (name, a) in named if isinstance(a, Array)]
        self._numbers = [(i, name, n) for i, (name, n) in named if isinstance(n, Whole)]
        self._sizes = lru_cache(maxsize=256)(self._sizes_of)

    def check(self, *given: Any, **known: int) -> list[Any]:
        """The arguments, each array contiguous and aligned as the kernels load it.

        Args:
            given: the arguments.
            known: sizes by letter that are not the arguments' to choose.

        Raises:
            ConfigError: one of them is not what the table says.
        """
        if len(given) != self._count:
            raise self._error(f"{self._count} arrays and numbers", f"count={len(given)}")
        solid, shapes = list(given), []
        kind, device = given[self._arrays[0][0]].dtype, given[self._arrays[0][0]].device
        if kind not in TYPES:
            raise self._error("arrays all of float32 or all of float64", f"dtype={kind}")
        for place, name, array in self._arrays:
            tensor = given[place]
            if not isinstance(tensor, Tensor):
                raise self._error(f"{name} as a tensor", f"type={type(tensor).__name__}")
            if tensor.dtype is not (array.dtype or kind):
                raise self._error(f"{name} of {array.dtype or kind}", f"dtype={tensor.dtype}")
            if tensor.device != device:
                raise self._error(f"{name} on device {device}", f"device={tensor.device}")
            if not tensor.is_contiguous() or tensor.data_ptr() % ALIGNED:
                solid[place] = tensor.clone(memory_format=torch.contiguous_format)
            shapes.append(tensor.shape)
        numbers = tuple([given[place] for place, _, _ in self._numbers])
        sizes = self._sizes(kind.itemsize, numbers, tuple(shapes), tuple(known.items()))
        for place, name, array in self._arrays:
            if array.below and device.type == "cpu":
                indices, limit = given[place].tolist(), sizes[array.below]
                if min(indices) < 0 or max(indices) >= limit:
                    raise self._error(f"{name} from 0 to {limit - 1}", f"{name}={indices}")
        return solid

    def _sizes_of(
        self,
        bytes_: int,
        numbers: tuple[int, ...],
        shapes: tuple[torch.Size, ...],
        known: tuple[tuple[str, int], ...],
    ) -> Sizes:
        """The sizes by letter; raises ConfigError as `check` does."""
        sizes: Sizes = {"bytes": bytes_, **dict(known)}
        for (_, name, number), value in zip(self._numbers, numbers, strict=True):
            if not number.least <= value <= number.most:
                raise self._error(f"{name} from {number.least} to {number.most}", f"{name}={value}")
            sizes[name] = value
        for (_, name, array), shape in zip(self._arrays, shapes, strict=True):
            axes = [(int(axis[:-1] or 1), axis[-1]) for axis in array.axes.split()]
            if not self._fits(axes, shape, sizes):
                same = ", ".join(f"{x}={sizes[x]}" for _, x in axes if x.isalpha() and x in sizes)
                wanted = f"({array.axes.replace(' ', ', ')}), {same or 'no size 0'}"
                raise self._error(f"{name} of shape {wanted}", f"shape={tuple(shape)}")
        return sizes

    def _fits(self, axes: list[tuple[int, str]], shape: Sequence[int], sizes: Sizes) -> bool:
        """Whether a shape has these axes; letters met for the first time get their size."""
        if len(axes) != len(shape):
            return False
        for (factor, letter), size in zip(axes, shape, strict=True):
            if letter not in sizes:
                derive = self._derived.get(letter)
                sizes[letter] = derive(sizes) if derive else size // factor
                if not derive and sizes[letter] < 1:
                    return False
            if size != factor * sizes[letter]:
                return False
        return True

    def _error(self, expected: str, got: str) -> ConfigError:
        return ConfigError(
            f"{self.operator}: expected {expected}, got {got}; its module names every array"
        )
