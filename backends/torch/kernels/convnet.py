"""The first layer of the ConvNet in C++ on CPUs: an override of its equation 1, in one operator.

The equations are those of `fwt.fwcore.cells.convnet`; a training step costs about a third, since
what is pooled (at 7x7 pixels five times what is left) never leaves the cache. What a call is given
and gives (N glimpses of S^2 pixels, P maxima along a side, R features; of one floating type), with
the gradient of `out` for the first three:

    pictures (N, S^2)
    weight   (R, 9)        K1
    bias     (R)           b1
    out      (N, P^2, R)   v1
    winners  (N, words, R) 4 bits of each maximum: its place 0..8 in the window (the first of
                           equals), or 9 where the ReLU is at zero; as wide as the type
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fwt.backends.torch.kernels import library
from fwt.backends.torch.kernels.arguments import Array, Sizes, Table
from fwt.backends.torch.kernels.derivatives import Gradients, Rule, refuse, register
from fwt.backends.torch.kernels.mapped import one_by_one
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import model
from fwt.fwcore.cells import convnet
from fwt.fwcore.cells.base import CellSpec, State, Weights
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

KERNEL = "C++"
MAPS = True  # vmap goes over it
LIBRARY = "fwt.backends.torch.kernels._convnet"
BLOCK = 64  # BLOCK of convnet.cpp
WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}
FORWARD, BACKWARD = "fwt::pooled_convolution", "fwt::pooled_convolution_backward"


class Shape(ctypes.Structure):
    """`Shape` of convnet.cpp, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in ("count", "side", "pooled", "size")]


def covers(core: CellSpec, ops: TorchOps) -> bool:
    """Whether `unroll` computes a core: a ConvNet, on the CPU, in float32 or 64, once built."""
    return isinstance(core, convnet.Spec) and library.covers(LIBRARY, ops.device, ops.dtype)


def _run(direction: str, shape: Shape, dtype: torch.dtype, *tensors: Tensor | None) -> None:
    """Every block of glimpses, on as many threads as torch uses."""
    products = shape.count * shape.side**2 * convnet.KERNEL**2 * shape.size
    call = library.entry(LIBRARY, direction, dtype)
    library.run(call, shape, -(-shape.count // BLOCK), products, tensors)


def _shape(pictures: Tensor, weight: Tensor) -> Shape:
    count, inputs = pictures.shape
    return Shape(count, *convnet.sides(inputs), len(weight))


def _maxima(sizes: Sizes) -> int:
    """P^2 of I pixels."""
    return convnet.sides(sizes["I"])[1] ** 2


def _words(sizes: Sizes) -> int:
    """Words of 4 bits a maximum, of the width of the floating type."""
    return -(-_maxima(sizes) // (2 * sizes["bytes"]))


SHARED = {"pictures": Array("N I"), "weight": Array("R 9")}
TABLE = Table(FORWARD, {**SHARED, "bias": Array("R")}, {"9": lambda _: 9})
BACKWARD_TABLES = {
    dtype: Table(
        BACKWARD,
        {**SHARED, "grad": Array("N M R"), "winners": Array("N V R", words), "seen": None},
        {"9": lambda _: 9, "M": _maxima, "V": _words},
    )
    for dtype, words in WORDS.items()
}


def _empty(pictures: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Room for out and winners."""
    sizes = {"I": pictures.shape[1], "bytes": pictures.element_size()}
    count, size = pictures.shape[0], weight.shape[0]
    winners = pictures.new_empty(count, _words(sizes), size, dtype=WORDS[pictures.dtype])
    return pictures.new_empty(count, _maxima(sizes), size), winners


def _forward(*given: Tensor) -> tuple[Tensor, Tensor]:
    """Out and winners."""
    pictures, weight, bias = TABLE.check(*given)
    out, winners = _empty(pictures, weight, bias)
    rows = torch.cat([weight.T, bias[None]])  # features side by side, for the registers
    _run("forward", _shape(pictures, weight), weight.dtype, pictures, rows, out, winners)
    return out, winners


def _backward(
    grad: Tensor, pictures: Tensor, weight: Tensor, winners: Tensor, seen: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of pictures (empty unless they are asked for by `seen`), weight and bias."""
    table = BACKWARD_TABLES.get(grad.dtype, TABLE)
    pictures, weight, grad, winners, _ = table.check(pictures, weight, grad, winners, seen)
    shape, size = _shape(pictures, weight), len(weight)
    rows = torch.cat([weight.T, weight.new_zeros(1, size)])
    sums = weight.new_empty(-(-shape.count // BLOCK), *rows.shape)
    dpictures = pictures.new_empty(pictures.shape if seen else 0)
    given = [grad, pictures, rows, winners, sums]
    _run("backward", shape, weight.dtype, *given, dpictures if seen else None)
    total = sums.sum(0)
    return dpictures, total[:-1].T.contiguous(), total[-1].clone()


def _fake_backward(grad: Tensor, pictures: Tensor, weight: Tensor, *given: Any) -> Any:
    seen = given[-1]
    empty = pictures.new_empty(pictures.shape if seen else 0)
    return empty, torch.empty_like(weight), weight.new_empty(len(weight))


torch.library.define(
    FORWARD, "(Tensor pictures, Tensor weight, Tensor bias) -> (Tensor out, Tensor winners)"
)
torch.library.define(
    BACKWARD,
    "(Tensor grad, Tensor pictures, Tensor weight, Tensor winners, bool seen) "
    "-> (Tensor dpictures, Tensor dweight, Tensor dbias)",
)
pooled_convolution = torch.ops.fwt.pooled_convolution.default
pooled_convolution_backward = torch.ops.fwt.pooled_convolution_backward.default


def _equations(pictures: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """Out, by `fwt.fwcore.cells.convnet.first_layer`."""
    p = {"core.conv1.weight": weight, "core.conv1.bias": bias}
    ops = TorchOps(pictures.device, pictures.dtype)
    return (convnet.first_layer(ops, p, pictures[:, None]),)


def _gradient(given: Any, results: Any, slopes: Any, wanted: Any) -> Gradients:
    """By the backward operator."""
    pictures, weight, _ = given
    found = pooled_convolution_backward(*slopes, pictures, weight, results[1], wanted[0])
    return found[0] if wanted[0] else None, *found[1:]


torch.library.impl(FORWARD, "cpu", _forward)
torch.library.impl(BACKWARD, "cpu", _backward)
torch.library.register_fake(FORWARD, _empty)
torch.library.register_fake(BACKWARD, _fake_backward)
torch.library.register_vmap(FORWARD, partial(one_by_one, pooled_convolution))
torch.library.register_vmap(BACKWARD, partial(one_by_one, pooled_convolution_backward))
register("pooled_convolution", Rule(1, pooled_convolution, _equations, _gradient))
refuse("pooled_convolution_backward", "pooled_convolution")


def _first_layer(ops: Ops, p: Weights, x: Tensor) -> Tensor:
    """Eq. 1 of the ConvNet, `fwt.fwcore.cells.convnet.first_layer`."""
    weight, bias = p["core.conv1.weight"], p["core.conv1.bias"]
    out: Tensor = pooled_convolution(x.transpose(0, 1).flatten(0, 1), weight.flatten(1), bias)[0]
    return out


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Tensor,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[Tensor], State]:
    """The time loop of the ConvNet, with eq. 1 in the operator."""
    project = partial(convnet.project, layer=_first_layer)
    return model.unroll(ops, spec, p, x, memory, given, first, project)
