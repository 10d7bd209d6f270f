"""How PyTorch multiplies float32 matrices while our code runs; the user's settings come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch

from fwt.backends.torch.ops import TorchOps

MODES = {"highest": "ieee", "tf32": "tf32"}  # `TrainSpec.precision` -> PyTorch's name

P = ParamSpec("P")
R = TypeVar("R")


class HasOps(Protocol):
    """What computes with operations of PyTorch."""

    _ops: TorchOps


class _Products:
    """PyTorch's settings, which are those of the process: the last of several threads restores."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: list[str] = []

    @contextmanager
    def __call__(self, mode: str) -> Iterator[None]:
        backends: Any = torch.backends  # its types lack the newer settings
        places = (backends, backends.cuda.matmul, backends.cudnn)
        with self._lock:
            if not self._inside:
                self._before = [place.fp32_precision for place in places]
            self._inside += 1
            for place in places:
                place.fp32_precision = mode
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    for place, before in zip(places, self._before, strict=True):
                        place.fp32_precision = before


products = _Products()

Self = TypeVar("Self", bound=HasOps)


def in_precision(
    method: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], R]:
    """A method whose float32 products are as precise as its `_ops` say, whatever the user's are."""

    @wraps(method)
    def call(self: Self, /, *arguments: P.args, **options: P.kwargs) -> R:
        with products(self._ops.precision):
            return method(self, *arguments, **options)

    return call
