"""A step of the associative LSTM in C++ on CPUs: an override of its equations 1 to 3.

The equations are those of `fwcore.cells.alstm`; a training step costs about half. What a call is
given and gives (B sequences, H = R/2 complex numbers, N copies; of one floating type but `order`):

    pre            (B, 9H)    Wx x(t) + Wh h(t-1) + b
    real, imag     (B, N, H)  c_s(t-1)
    order          (N, H)     int32: P_s x = x[order[s]]
    h              (B, 2H)    h(t)
    c_real, c_imag (B, N, H)  c_s(t)
    gates          (B, 3H)    g_i, g_f, g_o, kept for the gradient
"""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, library

from backends.torch.fused import cpu
from backends.torch.mapped import one_by_one
from backends.torch.ops import TorchOps
from fwcore import model
from fwcore.cells import alstm
from fwcore.cells.base import CellSpec, Weights
from fwcore.memory import Plan
from fwcore.ops import Ops
from fwcore.spec import ModelSpec

KERNEL = "C++"
LIBRARY = "backends.torch._alstm"
FORWARD, BACKWARD = "fwt::associate", "fwt::associate_backward"
PRODUCTS = 12  # of a complex number of a copy


class Shape(ctypes.Structure):
    """`Shape` of alstm.cpp, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in ("half", "copies")]


def covers(core: CellSpec, ops: TorchOps) -> bool:
    """Whether `unroll` computes a core: an A-LSTM, on the CPU, in float32 or 64, once built."""
    if not isinstance(core, alstm.Spec) or ops.device.type != "cpu":
        return False
    return ops.dtype in cpu.NAMES and cpu.missing(LIBRARY) is None


@cache
def places(half: int, copies: int) -> Tensor:
    """`order`, from `fwcore.cells.alstm.permutations`."""
    found = alstm.permutations(half, copies).argmax(0)
    return torch.from_numpy(found.reshape(copies, half)).to(torch.int32)


def _run(direction: str, order: Tensor, *tensors: Tensor) -> None:
    """Every sequence, on as many threads as torch uses."""
    copies, half = order.shape
    batch = len(tensors[0])
    call = cpu.entry(direction, tensors[0].dtype, LIBRARY)
    cpu.run(call, Shape(half, copies), batch, PRODUCTS * batch * order.numel(), tensors)


def _empty(
    pre: Tensor, real: Tensor, imag: Tensor, order: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for h, c_real, c_imag and gates.

    Raises:
        TypeError: the arrays are not all of float32 or all of float64.
    """
    cpu.one_type(FORWARD, pre, real, imag)
    batch, (copies, half) = pre.shape[0], order.shape
    c_real, c_imag = (pre.new_empty(batch, copies, half) for _ in range(2))
    return pre.new_empty(batch, 2 * half), c_real, c_imag, pre.new_empty(batch, 3 * half)


def _forward(
    pre: Tensor, real: Tensor, imag: Tensor, order: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, c_real, c_imag and gates."""
    *found, gates = _empty(pre, real, imag, order)
    pre = pre.contiguous()
    torch.sigmoid(pre[:, : gates.shape[1]], out=gates)
    given = [pre, gates, real.contiguous(), imag.contiguous(), order]
    _run("forward", order, *given, *found)
    h, c_real, c_imag = found
    return h, c_real, c_imag, gates


def _backward(
    dh: Tensor,
    dc_real: Tensor,
    dc_imag: Tensor,
    pre: Tensor,
    gates: Tensor,
    real: Tensor,
    imag: Tensor,
    c_real: Tensor,
    c_imag: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of pre, real and imag."""
    given = [dh, dc_real, dc_imag, pre, gates, real, imag, c_real, c_imag]
    solid = [tensor.contiguous() for tensor in given]
    found = torch.empty_like(solid[3]), torch.empty_like(solid[5]), torch.empty_like(solid[6])
    _run("backward", order, *solid, order, *found)
    return found


library.define(
    FORWARD,
    "(Tensor pre, Tensor real, Tensor imag, Tensor order) "
    "-> (Tensor h, Tensor c_real, Tensor c_imag, Tensor gates)",
)
library.define(
    BACKWARD,
    "(Tensor dh, Tensor dc_real, Tensor dc_imag, Tensor pre, Tensor gates, Tensor real, "
    "Tensor imag, Tensor c_real, Tensor c_imag, Tensor order) "
    "-> (Tensor dpre, Tensor dreal, Tensor dimag)",
)
associate = torch.ops.fwt.associate.default
associate_backward = torch.ops.fwt.associate_backward.default
library.impl(FORWARD, "cpu", _forward)
library.impl(BACKWARD, "cpu", _backward)


def _fake_backward(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(given[i].new_empty(given[i].shape) for i in (3, 5, 6))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    pre, real, imag, order = inputs
    _, c_real, c_imag, gates = output
    ctx.save_for_backward(pre, gates, real, imag, c_real, c_imag, order)


def _differentiated(ctx: Any, dh: Tensor, dc_real: Tensor, dc_imag: Tensor, _: Any) -> Any:
    return *associate_backward(dh, dc_real, dc_imag, *ctx.saved_tensors), None


library.register_fake(FORWARD, _empty)
library.register_fake(BACKWARD, _fake_backward)
library.register_vmap(FORWARD, partial(one_by_one, associate))
library.register_autograd(FORWARD, _differentiated, setup_context=_keep)


def _associate(ops: Ops, spec: alstm.Spec, pre: Tensor, old: alstm.Complex) -> Any:
    """See `fwcore.cells.alstm.associate`."""
    h, real, imag, _ = associate(pre, *old, places(spec.size // 2, spec.copies))
    return alstm.AssociativeState(h, alstm.Complex(real, imag))


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Tensor,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[Tensor], alstm.AssociativeState]:
    """See `fwcore.model.unroll`, with equations 1 to 3 of the A-LSTM in the operator."""
    step = partial(alstm.step, associate=_associate)
    return model.unroll(ops, spec, p, x, memory, given, first, step=step)
