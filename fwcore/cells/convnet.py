"""The convolutional network that glimpses are compared with: three layers, no recurrence.

    v1(t) = relu(b1 + maxpool(K1 * x(t)))   3x3 kernels, borders padded with 0; R pictures     (1)
    v(t)  = relu(b2 + K2 * v1(t))           kernels as large as what the pooling left          (2)
    h(t)  = relu(b + sum_{s <= t} W_s v(s))                                                    (3)

x(t) is a square picture (a 7x7 glimpse); * is convolution (cross-correlation, as in both
frameworks). The pooling takes windows of 3x3 every 2 pixels: 7x7 become 3x3, so that K2 is 3x3 and
v(t) is R numbers. The first two layers are the same for all glimpses; the third sees all of them
together, with weights W_s of its own for each time step.

Ba et al. 2016 (arXiv 1610.06258), table 2, give "a ConvNet" with R features by its errors alone;
these layers are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from fwt.fwcore.cells.base import CellSpec, PositiveInt, Presets, Weights
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.lookup import dense
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, NumpyArray, Ops
from fwt.fwcore.params import Initialiser, Param, constant, uniform

KERNEL = 3  # pixels along a side of K1 and of a pooling window,
STRIDE = 2  # and between two windows

Layer = Callable[[Ops, Weights, Array], Array]


class Spec(CellSpec):
    """Options of the convolutional network.

    Attributes:
        size: R, features of every layer (count).
        steps: the most glimpses of a sequence, each with a W_s (24 default, as in the paper).
    """

    pictures: ClassVar[bool] = True
    weighs_steps: ClassVar[bool] = True

    kind: Literal["convnet"] = "convnet"
    steps: PositiveInt = 24

    def kept(self, inputs: int) -> int:
        """About four numbers a pixel and feature."""
        return 4 * inputs * self.size


PRESETS: Presets = {"convnet": {}}


def sides(inputs: int) -> tuple[int, int]:
    """Pixels along a side of a picture of I pixels, and along a side of what the pooling leaves.

    Raises:
        ConfigError: I numbers are no square picture, or one too small to pool.
    """
    side = math.isqrt(inputs)
    if side * side != inputs or side < KERNEL:
        raise ConfigError(
            f"core: the model 'convnet' expects time steps that are square pictures of at least "
            f"{KERNEL}x{KERNEL} pixels, got inputs={inputs}; take the encoder 'identity' and a "
            "task of pictures"
        )
    return side, (side - KERNEL) // STRIDE + 1


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """K1 (R, 1, 3, 3), K2 (R, R, 3, 3) for 7x7 pixels, W (T, R, R); biases (R), 0.

    Weights are uniform in +-sqrt(6 / n) for the n numbers that a unit sums: He, Zhang, Ren, Sun
    2015 (arXiv 1502.01852), eq. 10.
    """
    size, (_, pooled) = spec.size, sides(inputs)

    def he(summed: int) -> Initialiser:
        return uniform((6.0 / summed) ** 0.5)

    second = (size, size, pooled, pooled)
    return [
        Param("core.conv1.weight", (size, 1, KERNEL, KERNEL), "OIHW", he(KERNEL**2)),
        Param("core.conv1.bias", (size,), "O", constant(0.0)),
        Param("core.conv2.weight", second, "OIHW", he(math.prod(second[1:]))),
        Param("core.conv2.bias", (size,), "O", constant(0.0)),
        Param("core.w", (spec.steps, size, size), "TOI", he(spec.steps * size)),
        Param("core.bias", (size,), "U", constant(0.0)),
    ]


class SumState(NamedTuple):
    """The sum of eq. 3 so far, and the features it stands for."""

    h: Array
    output: Array

    def arrays(self) -> dict[str, Array]:
        """`h` (B, R), the sum before bias and ReLU."""
        return {"h": self.h}


@cache
def neighbours(side: int) -> NumpyArray:
    """Which pixel lies under each place of K1 at each pixel: 0 or 1, (9 side^2, side^2).

    Rows count places of the kernel, then pixels; the padding is a row of zeros.
    """
    found = np.zeros((KERNEL, KERNEL, side, side, side, side), np.int8)
    middle = KERNEL // 2
    for i, j, row, column in np.ndindex(KERNEL, KERNEL, side, side):
        down, right = row + i - middle, column + j - middle
        if 0 <= down < side and 0 <= right < side:
            found[i, j, row, column, down, right] = 1
    return found.reshape(KERNEL**2 * side**2, side**2)


def _largest(ops: Ops, arrays: Sequence[Array]) -> Array:
    """The largest of each element: max(a, b) = a + relu(b - a), true to a rounding.

    PyTorch runs it, forward and backward, twice as fast as its own maximum or pooling.
    """
    best = arrays[0]
    for array in arrays[1:]:
        best = best + ops.relu(array - best)
    return best


def _pooled(ops: Ops, pixels: Sequence[Array], side: int, pooled: int) -> list[Array]:
    """Eq. 1's maxima over windows, rows of a window first: side^2 arrays -> pooled^2 arrays."""
    places = range(0, STRIDE * pooled, STRIDE)
    rows = [
        [_largest(ops, pixels[row * side + at : row * side + at + KERNEL]) for at in places]
        for row in range(side)
    ]
    return [
        _largest(ops, [row[column] for row in rows[at : at + KERNEL]])
        for at in places
        for column in range(pooled)
    ]


def first_layer(ops: Ops, p: Weights, x: Array) -> Array:
    """The v1 of every glimpse, eq. 1: (B, T, I) -> (T B, places that the pooling leaves, R)."""
    batch, steps, inputs = x.shape
    side, pooled = sides(inputs)
    size, count = p["core.conv1.bias"].shape[0], batch * steps
    pictures = ops.swapaxes(x, 0, 1).reshape(count, inputs)
    places = ops.constant(neighbours(side)) @ pictures.T  # each kernel place of each pixel
    seen = places.reshape(KERNEL**2, inputs * count).T @ p["core.conv1.weight"].reshape(size, -1).T
    pixels = ops.unbind(seen.reshape(inputs, count, size), 0)
    first = ops.stack(_pooled(ops, pixels, side, pooled), 1)
    return ops.relu(first + p["core.conv1.bias"])


def second_layer(ops: Ops, p: Weights, first: Array) -> Array:
    """The v of every glimpse, eq. 2: (T B, places, R) -> (T B, R)."""
    count, places, size = first.shape
    kernel = ops.swapaxes(p["core.conv2.weight"].reshape(size, size, places), 1, 2)
    second = first.reshape(count, -1) @ kernel.reshape(size, -1).T
    return ops.relu(second + p["core.conv2.bias"])


def project(
    ops: Ops, spec: Spec, p: Weights, x: Array, first: int, layer: Layer = first_layer
) -> Sequence[Array]:
    """W_t v(t) for all steps: T arrays (B, R).

    Args:
        layer: `first_layer`, or what a backend has in its place.

    Raises:
        ConfigError: there are more time steps than the spec has weights for.
    """
    batch, steps, _ = x.shape
    last = first + steps
    if last > spec.steps:
        raise ConfigError(
            f"core: the model 'convnet' has weights for steps={spec.steps} time steps, got a "
            f"sequence of {last}; train one with more steps"
        )
    features = second_layer(ops, p, layer(ops, p, dense(x))).reshape(steps, batch, spec.size)
    weights = ops.swapaxes(p["core.w"][first:last], 1, 2)
    return ops.unbind(features @ weights, 0)


def start(ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights) -> SumState:
    """A sum of 0, or the array `given` as `h`."""
    total = given["h"] if "h" in given else ops.zeros((batch, spec.size))
    return _shown(ops, p, total)


def step(ops: Ops, spec: Spec, p: Weights, z: Array, state: SumState, t: int) -> SumState:
    """Eq. 3: one more glimpse."""
    return _shown(ops, p, state.h + z)


def _shown(ops: Ops, p: Weights, total: Array) -> SumState:
    return SumState(total, ops.relu(total + p["core.bias"]))
