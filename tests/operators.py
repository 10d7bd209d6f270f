"""The operators of PyTorch on the CPU: small arguments of each, and each by its equations."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from tests import cases


class Operator(NamedTuple):
    """An operator and its gradient's.

    Attributes:
        module: of `fwt.backends.torch`.
        name: under `torch.ops.fwt`.
        results: how many of its results have a derivative.
    """

    module: str
    name: str
    results: int

    def run(self, backward: bool = False) -> Any:
        """The operator, or that of its gradients."""
        module = import_module(f"fwt.backends.torch.kernels.{self.module}")
        return getattr(module, f"{self.name}_backward" if backward else self.name)

    def call(self, *given: Any) -> tuple[Any, ...]:
        """Those of the results that have a derivative."""
        return tuple(self.run()(*given)[: self.results])

    def equations(self, *given: Any) -> tuple[Any, ...]:
        """The same by the equations."""
        return tuple(import_module(f"fwt.backends.torch.kernels.{self.module}")._equations(*given))


FAST = Operator("fused.operator", "fast_weights", 1)
ASSOCIATE = Operator("alstm", "associate", 3)
CONVOLUTION = Operator("convnet", "pooled_convolution", 1)
OPERATORS = (FAST, ASSOCIATE, CONVOLUTION)


def tensor(seed: int, *shape: int, dtype: str = "float64") -> Any:
    """Random numbers that float32 holds exactly."""
    import torch

    return torch.from_numpy(cases.noise(seed, *shape)).to(getattr(torch, dtype))


def fast_weights(
    steps: int = 3,
    size: int = 2,
    inner: int = 1,
    chunk: int = 2,
    *,
    norm: bool = True,
    wipe: bool = False,
    batch: int = 2,
    stores: Any = None,
    decay: float = 0.8,
    rate: float = 0.3,
    dtype: str = "float64",
) -> list[Any]:
    """Arguments of `fwt::fast_weights`: one member, two W, a step without a write."""
    import torch

    kind = getattr(torch, dtype)
    which = torch.arange(steps) % 2
    writes = torch.tensor([t != 1 for t in range(steps)] if stores is None else stores)
    w = 0.4 * tensor(2, 1, 2, size, size, dtype=dtype)
    bound = [1 + 0.1 * tensor(3, 1, size, dtype=dtype), 0.1 * tensor(4, 1, size, dtype=dtype)]
    rates = [torch.tensor([number], dtype=kind) for number in (decay, rate)]
    z = tensor(1, 1, batch, steps, size, dtype=dtype)
    return [z, w, which, writes, wipe, inner, norm, *bound, *rates, chunk]


def associate(half: int = 2, copies: int = 2, batch: int = 2, dtype: str = "float64") -> list[Any]:
    """Arguments of `fwt::associate`."""
    shapes = [(batch, 9 * half), (batch, copies, half), (batch, copies, half)]
    return [tensor(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def convolution(side: int = 5, size: int = 2, count: int = 2, dtype: str = "float64") -> list[Any]:
    """Arguments of `fwt::pooled_convolution`."""
    shapes = [(count, side**2), (size, 9), (size,)]
    return [tensor(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def gradient_of(operator: Operator) -> list[Any]:
    """Arguments of the operator of an operator's gradient."""
    import torch

    given = ARGUMENTS[operator]()
    found = operator.run()(*given)
    slopes = [torch.ones_like(array) for array in operator.call(*given)]
    if operator is FAST:
        return [*slopes, found[0], found[1], *given[1:]]
    if operator is ASSOCIATE:
        pre, *old = given
        _, *c, gates = found
        return [*slopes, pre, gates, *old, *c]
    return [*slopes, *given[:2], found[1], True]


ARGUMENTS: dict[Operator, Callable[..., list[Any]]] = {
    FAST: fast_weights,
    ASSOCIATE: associate,
    CONVOLUTION: convolution,
}


def leaves(given: list[Any]) -> list[int]:
    """Places of the arguments that have a derivative."""
    import torch

    return [i for i, a in enumerate(given) if isinstance(a, torch.Tensor) and a.is_floating_point()]
