"""A step of the associative LSTM in C++ on CPUs: an override of its equations 1 to 3.

The equations are those of `fwt.fwcore.cells.alstm`; a training step costs about half. What a call
is given and gives (B sequences, H = R/2 complex numbers, N copies; of one floating type):

    pre            (B, 9H)    Wx x(t) + Wh h(t-1) + b
    real, imag     (B, N, H)  c_s(t-1)
    h              (B, 2H)    h(t)
    c_real, c_imag (B, N, H)  c_s(t)
    gates          (B, 3H)    g_i, g_f, g_o, kept for the gradient
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fwt.backends.torch.kernels import library
from fwt.backends.torch.kernels.arguments import Array, Table
from fwt.backends.torch.kernels.derivatives import Gradients, Rule, refuse, register
from fwt.backends.torch.kernels.mapped import one_by_one
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import model
from fwt.fwcore.cells import alstm
from fwt.fwcore.cells.base import CellSpec, State, Weights
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

KERNEL = "C++"
MAPS = True  # vmap goes over it
LIBRARY = "fwt.backends.torch.kernels._alstm"
FORWARD, BACKWARD = "fwt::associate", "fwt::associate_backward"
PRODUCTS = 12  # of a complex number of a copy


class Shape(ctypes.Structure):
    """`Shape` of alstm.cpp, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in ("half", "copies")]


def covers(core: CellSpec, ops: TorchOps) -> bool:
    """Whether `unroll` computes a core: an A-LSTM, on the CPU, in float32 or 64, once built."""
    return isinstance(core, alstm.Spec) and library.covers(LIBRARY, ops.device, ops.dtype)


@cache
def places(half: int, copies: int) -> Tensor:
    """The places of the permutations P_s x = x[places[s]], int32 (N, H)."""
    found = alstm.permutations(half, copies).argmax(0)
    return torch.from_numpy(found.reshape(copies, half)).to(torch.int32)


TABLE = Table(
    FORWARD,
    {
        "pre": Array("B 9H"),
        "real": Array("B N H"),
        "imag": Array("B N H"),
    },
)
BACKWARD_TABLE = Table(
    BACKWARD,
    {
        "dh": Array("B 2H"),
        "dc_real": Array("B N H"),
        "dc_imag": Array("B N H"),
        "pre": Array("B 9H"),
        "gates": Array("B 3H"),
        "real": Array("B N H"),
        "imag": Array("B N H"),
        "c_real": Array("B N H"),
        "c_imag": Array("B N H"),
    },
)


def _run(direction: str, given: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Every sequence, on as many threads as torch uses; the memories are the last two found."""
    batch, copies, half = found[-1].shape
    call = library.entry(LIBRARY, direction, given[0].dtype)
    arrays = [*given, places(half, copies), *found]
    library.run(call, Shape(half, copies), batch, PRODUCTS * found[-1].numel(), arrays)


def _empty(pre: Tensor, real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for h, c_real, c_imag and gates."""
    batch, _, half = real.shape
    c_real, c_imag = (real.new_empty(real.shape) for _ in range(2))
    return pre.new_empty(batch, 2 * half), c_real, c_imag, pre.new_empty(batch, 3 * half)


def _forward(*given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, c_real, c_imag and gates."""
    pre, real, imag = TABLE.check(*given)
    *found, gates = _empty(pre, real, imag)
    torch.sigmoid(pre[:, : gates.shape[1]], out=gates)
    _run("forward", [pre, gates, real, imag], found)
    h, c_real, c_imag = found
    return h, c_real, c_imag, gates


def _backward(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of pre, real and imag."""
    solid = BACKWARD_TABLE.check(*given)
    found = _empty_gradients(*solid)
    _run("backward", solid, found)
    return found


def _empty_gradients(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of pre, real and imag."""
    pre, real, imag = (given[i].new_empty(given[i].shape) for i in (3, 5, 6))
    return pre, real, imag


torch.library.define(
    FORWARD,
    "(Tensor pre, Tensor real, Tensor imag) "
    "-> (Tensor h, Tensor c_real, Tensor c_imag, Tensor gates)",
)
torch.library.define(
    BACKWARD,
    "(Tensor dh, Tensor dc_real, Tensor dc_imag, Tensor pre, Tensor gates, Tensor real, "
    "Tensor imag, Tensor c_real, Tensor c_imag) "
    "-> (Tensor dpre, Tensor dreal, Tensor dimag)",
)
associate = torch.ops.fwt.associate.default
associate_backward = torch.ops.fwt.associate_backward.default


def _equations(pre: Tensor, real: Tensor, imag: Tensor) -> tuple[Tensor, ...]:
    """h, c_real and c_imag by `fwt.fwcore.cells.alstm.associate`."""
    _, copies, half = real.shape
    spec = alstm.Spec(size=2 * half, copies=copies)
    ops = TorchOps(pre.device, pre.dtype)
    h, (c_real, c_imag) = alstm.associate(ops, spec, pre, alstm.Complex(real, imag))
    return h, c_real, c_imag


def _gradient(given: Any, results: Any, slopes: Any, wanted: Any) -> Gradients:
    """By the backward operator."""
    pre, real, imag = given
    _, c_real, c_imag, gates = results
    found: Gradients = associate_backward(*slopes, pre, gates, real, imag, c_real, c_imag)
    return found


torch.library.impl(FORWARD, "cpu", _forward)
torch.library.impl(BACKWARD, "cpu", _backward)
torch.library.register_fake(FORWARD, _empty)
torch.library.register_fake(BACKWARD, _empty_gradients)
torch.library.register_vmap(FORWARD, partial(one_by_one, associate))
torch.library.register_vmap(BACKWARD, partial(one_by_one, associate_backward))
register("associate", Rule(3, associate, _equations, _gradient))
refuse("associate_backward", "associate")


def _associate(ops: Ops, spec: alstm.Spec, pre: Tensor, old: alstm.Complex) -> Any:
    """Equations 1 to 3 of the A-LSTM, `fwt.fwcore.cells.alstm.associate`."""
    h, real, imag, _ = associate(pre, *old)
    return alstm.AssociativeState(h, alstm.Complex(real, imag))


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Tensor,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[Tensor], State]:
    """The time loop of the A-LSTM, with equations 1 to 3 in the operator."""
    step = partial(alstm.step, associate=_associate)
    return model.unroll(ops, spec, p, x, memory, given, first, step=step)
