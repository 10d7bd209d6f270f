"""The operations contract in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fwt.fwcore.ops import NumpyArray


class TorchOps:
    """`fwt.fwcore.ops.Ops` on one device in one number type.

    Args:
        precision: of float32 products, PyTorch's name: `ieee` or `tf32`.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, precision: str = "ieee") -> None:
        self.device = device
        self.precision = precision
        self.dtype = dtype
        self._constants: dict[tuple[bytes, tuple[int, ...]], Tensor] = {}

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def constant(self, values: NumpyArray) -> Tensor:
        """Each is sent to the device once and kept."""
        key = (values.tobytes(), values.shape)
        if key not in self._constants:
            self._constants[key] = torch.as_tensor(values, dtype=self.dtype, device=self.device)
        return self._constants[key]

    def cast(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def relu(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def logsumexp(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, -1)

    def layer_norm(self, x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        return functional.layer_norm(x, gain.shape, gain, bias, epsilon)

    def take(self, table: Tensor, rows: Tensor) -> Tensor:
        return functional.embedding(rows, table)

    def pick(self, x: Tensor, columns: Tensor) -> Tensor:
        return x.gather(1, columns[:, None])[:, 0]

    def stack(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.stack(list(arrays), axis)

    def unbind(self, x: Tensor, axis: int) -> list[Tensor]:
        return list(x.unbind(axis))

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        return list(x.chunk(parts, -1))

    def swapaxes(self, x: Tensor, first: int, second: int) -> Tensor:
        return x.transpose(first, second)
