"""The first layer of the ConvNet on CPUs, a few glimpses at a time: an override of its equation 1.

The equations are those of `fwt.fwcore.cells.convnet`. What is pooled (at 7x7 pixels five times what
is left) never leaves the cache, and a maximum is one operation, not three. On a GPU, whose memory
is fast and whose kernels cost by their number, the equations run as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import mlx.core as mx

from fwt.fwcore import model
from fwt.fwcore.cells import convnet
from fwt.fwcore.cells.base import CellSpec, State, Weights
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

PIECE = 2**20  # numbers, features of all pixels, that are computed and pooled at a time


def covers(core: CellSpec) -> bool:
    """Whether `unroll` computes a core: a ConvNet, on the CPU, which MLX runs on now."""
    return isinstance(core, convnet.Spec) and mx.default_device().type == mx.cpu


def _largest(best: mx.array, array: mx.array) -> mx.array:
    """The larger of each element, and of equals `best`: MLX gives those's slope to its second."""
    return mx.maximum(array, best)


def _pooled(pixels: Sequence[mx.array], side: int, pooled: int) -> mx.array:
    """Eq. 1's maxima over windows: side^2 arrays (N, R) -> (N, pooled^2, R)."""
    window = [
        row * side + column for row in range(convnet.KERNEL) for column in range(convnet.KERNEL)
    ]
    corners = [
        convnet.STRIDE * (row * side + column) for row in range(pooled) for column in range(pooled)
    ]
    return mx.stack(
        [reduce(_largest, [pixels[at + place] for place in window]) for at in corners], 1
    )


def _first_layer(ops: Ops, p: Weights, x: mx.array) -> mx.array:
    """Eq. 1 of the ConvNet, `fwt.fwcore.cells.convnet.first_layer`."""
    side, pooled = convnet.sides(x.shape[2])
    inputs, size = side * side, p["core.conv1.bias"].shape[0]
    weight = p["core.conv1.weight"].reshape(size, -1).T
    neighbours = ops.constant(convnet.neighbours(side))
    pictures = ops.swapaxes(x, 0, 1).reshape(-1, inputs)
    count = max(1, PIECE // (inputs * size))
    maxima = []
    for piece in mx.split(pictures, range(count, len(pictures), count)):
        places = neighbours @ piece.T  # each kernel place of each pixel
        seen = places.reshape(convnet.KERNEL**2, -1).T @ weight
        maxima.append(_pooled(ops.unbind(seen.reshape(inputs, -1, size), 0), side, pooled))
    out: mx.array = ops.relu(mx.concatenate(maxima) + p["core.conv1.bias"])
    return out


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: mx.array,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[mx.array], State]:
    """The time loop of the ConvNet, with eq. 1 as above."""
    project = partial(convnet.project, layer=_first_layer)
    return model.unroll(ops, spec, p, x, memory, given, first, project)
