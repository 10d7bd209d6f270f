"""The operations contract in MLX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from fwt.fwcore.ops import NumpyArray


class MlxOps:
    """`fwt.fwcore.ops.Ops` on MLX's default device in one number type."""

    def __init__(self, dtype: mx.Dtype) -> None:
        self.dtype = dtype

    def zeros(self, shape: tuple[int, ...]) -> mx.array:
        return mx.zeros(shape, dtype=self.dtype)

    def constant(self, values: NumpyArray) -> mx.array:
        return mx.array(values, dtype=self.dtype)

    def cast(self, x: mx.array) -> mx.array:
        return x.astype(self.dtype)

    def relu(self, x: mx.array) -> mx.array:
        return mx.maximum(x, 0)

    def tanh(self, x: mx.array) -> mx.array:
        return mx.tanh(x)

    def sigmoid(self, x: mx.array) -> mx.array:
        """`mx.sigmoid` is good to float32 only, even for float64."""
        return mx.sigmoid(x) if self.dtype != mx.float64 else 0.5 * (1.0 + mx.tanh(0.5 * x))

    def exp(self, x: mx.array) -> mx.array:
        """`mx.exp` is good to float32 only, even for float64; a power is exact."""
        if self.dtype != mx.float64:
            return mx.exp(x)
        return mx.power(mx.array(math.e, dtype=mx.float64), x)

    def log(self, x: mx.array) -> mx.array:
        return mx.log(x)

    def logsumexp(self, x: mx.array) -> mx.array:
        """For float64 see `exp`."""
        if self.dtype != mx.float64:
            return mx.logsumexp(x, axis=-1)
        highest = mx.stop_gradient(mx.max(x, axis=-1, keepdims=True))
        return highest[..., 0] + mx.log(mx.sum(self.exp(x - highest), axis=-1))

    def layer_norm(self, x: mx.array, gain: mx.array, bias: mx.array, epsilon: float) -> mx.array:
        """`mx.fast.layer_norm` computes in float32 even for float64."""
        if self.dtype != mx.float64:
            return mx.fast.layer_norm(x, gain, bias, epsilon)
        centred = x - mx.mean(x, axis=-1, keepdims=True)
        variance = mx.mean(centred * centred, axis=-1, keepdims=True)
        return gain * (centred * mx.rsqrt(variance + epsilon)) + bias

    def take(self, table: mx.array, rows: mx.array) -> mx.array:
        return table[rows]

    def pick(self, x: mx.array, columns: mx.array) -> mx.array:
        return mx.take_along_axis(x, columns[:, None], axis=1)[:, 0]

    def stack(self, arrays: Sequence[mx.array], axis: int) -> mx.array:
        return mx.stack(list(arrays), axis=axis)

    def unbind(self, x: mx.array, axis: int) -> list[mx.array]:
        """`split` has one gradient for all parts, slices one each."""
        return [part.squeeze(axis) for part in mx.split(x, x.shape[axis], axis=axis)]

    def split(self, x: mx.array, parts: int) -> list[mx.array]:
        return list(mx.split(x, parts, axis=-1))

    def swapaxes(self, x: mx.array, first: int, second: int) -> mx.array:
        return mx.swapaxes(x, first, second)
