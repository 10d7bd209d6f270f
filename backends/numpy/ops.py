"""The operations contract in NumPy, always float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fwt.fwcore.ops import NumpyArray


class NumpyOps:
    """`fwt.fwcore.ops.Ops` in float64."""

    def zeros(self, shape: tuple[int, ...]) -> NumpyArray:
        return np.zeros(shape)

    def constant(self, values: NumpyArray) -> NumpyArray:
        return values.astype(np.float64)

    def cast(self, x: NumpyArray) -> NumpyArray:
        return x.astype(np.float64)

    def relu(self, x: NumpyArray) -> NumpyArray:
        return np.maximum(x, 0.0)

    def tanh(self, x: NumpyArray) -> NumpyArray:
        return np.tanh(x)

    def sigmoid(self, x: NumpyArray) -> NumpyArray:
        """Written with tanh, which cannot overflow."""
        return 0.5 * (1.0 + np.tanh(0.5 * x))

    def exp(self, x: NumpyArray) -> NumpyArray:
        return np.exp(x)

    def log(self, x: NumpyArray) -> NumpyArray:
        return np.log(x)

    def logsumexp(self, x: NumpyArray) -> NumpyArray:
        highest = x.max(axis=-1, keepdims=True)
        return np.asarray(highest[..., 0] + np.log(np.exp(x - highest).sum(axis=-1)))

    def layer_norm(
        self, x: NumpyArray, gain: NumpyArray, bias: NumpyArray, epsilon: float
    ) -> NumpyArray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return np.asarray(gain * centred / np.sqrt(variance + epsilon) + bias)

    def take(self, table: NumpyArray, rows: NumpyArray) -> NumpyArray:
        return np.asarray(table[rows])

    def pick(self, x: NumpyArray, columns: NumpyArray) -> NumpyArray:
        return np.take_along_axis(x, columns[:, None], axis=1)[:, 0]

    def stack(self, arrays: Sequence[NumpyArray], axis: int) -> NumpyArray:
        return np.stack(list(arrays), axis)

    def unbind(self, x: NumpyArray, axis: int) -> list[NumpyArray]:
        return list(np.moveaxis(x, axis, 0))

    def split(self, x: NumpyArray, parts: int) -> list[NumpyArray]:
        return np.split(x, parts, axis=-1)

    def swapaxes(self, x: NumpyArray, first: int, second: int) -> NumpyArray:
        return np.swapaxes(x, first, second)
