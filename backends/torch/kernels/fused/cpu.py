"""The fused core on the CPU: calls of the library made of `kernel.cpp` when fwt is installed."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fwt.backends.torch.kernels import library
from fwt.backends.torch.kernels.fused.kept import empty
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON

LIBRARY = "fwt.backends.torch.kernels.fused._kernel"
# in lanes: the states that are stored, pre = W h + C x, the brackets (normalised), 1 / their
# standard deviations, and A at the borders; what a variant has no use for stays as it was
KEPT = {
    "past": "P G T R L",
    "pre": "P G T R L",
    "y": "P G K T R L",
    "inverse": "P G K T L",
    "borders": "P G C R R L",
}


class Shape(ctypes.Structure):
    """`Shape` of kernel.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("members", "batch", "steps", "size")),
        *((name, ctypes.c_int64) for name in ("inner", "weights", "chunk")),
        *((name, ctypes.c_int32) for name in ("wipe", "norm")),
        ("epsilon", ctypes.c_double),
    ]


def _run(direction: str, shape: Shape, blocks: int, tensors: list[Tensor]) -> None:
    """Every block of sequences."""
    call = library.entry(LIBRARY, direction, tensors[0].dtype)
    products = blocks * shape.steps * shape.size * (shape.size + shape.inner * shape.steps)
    library.run(call, shape, blocks, products, tensors)


def forward(
    z: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> list[Tensor]:
    """The outputs, and what is kept for the way back, by `KEPT`."""
    found = [torch.empty_like(z), *empty(KEPT, z, inner, chunk)]
    shape = Shape(*z.shape, inner, w.shape[1], chunk, wipe, norm, LAYER_NORM_EPSILON)
    given = [z, w, which, stores, gain, bias, decay, rate]
    _run("forward", shape, z.shape[0] * found[1].shape[1], [*given, *found])
    return found


def backward(
    grad_out: Tensor,
    out: Tensor,
    past: Tensor,
    pre: Tensor,
    y: Tensor,
    inverse: Tensor,
    borders: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients; all but the first still to be summed over axis 1."""
    members, groups, _, size, _ = past.shape
    dz = torch.empty_like(out)
    dgain, dbias = (gain.new_empty(members, groups, size) for _ in range(2))
    ddecay, drate = (gain.new_empty(members, groups) for _ in range(2))
    shape = Shape(*grad_out.shape, inner, w.shape[1], chunk, wipe, norm, LAYER_NORM_EPSILON)
    transposed = w.transpose(-1, -2).contiguous()
    given = [grad_out, transposed, which, stores, gain, bias, decay, rate]
    found = [dz, dgain, dbias, ddecay, drate]
    kept = [past, pre, y, inverse, borders]
    _run("backward", shape, members * groups, [*given, *kept, *found])
    return dz, dgain, dbias, ddecay, drate
