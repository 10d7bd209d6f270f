"""Which kernel computes a core in place of the equations, on PyTorch: said here alone."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fwt.backends.torch.kernels import alstm, convnet, fused, lstm
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import model
from fwt.fwcore.cells.base import CellSpec

# beside the fused core of the fast weights; each `covers(core, ops)`
MODULES = (lstm, convnet, alstm)


class Kernel(NamedTuple):
    """What computes a core.

    Attributes:
        name: what it is written in, or the framework's function; `none` of the equations.
        unroll: the time loop.
    """

    name: str
    unroll: model.Unroll


EQUATIONS = Kernel("none", model.unroll)


def kernel_of(core: CellSpec, ops: TorchOps, form: str, together: bool = False) -> Kernel:
    """The kernel of a core on a device in a number type.

    Args:
        core: the core.
        ops: have the device and the number type.
        form: of the fast memory, as it was chosen.
        together: whether it must run P models as one program (`torch.func.vmap`).
    """
    if form == "fused":
        return Kernel(fused.KERNELS[ops.device.type], fused.unroll)
    for module in MODULES:
        if module.covers(core, ops) and (module.MAPS or not together):
            return Kernel(module.KERNEL, module.unroll)
    return EQUATIONS


def fused_missing(core: CellSpec, ops: TorchOps) -> str | None:
    """Why there is no fused core for a model, as a phrase; None if there is one."""
    return fused.missing(core, ops)


def fused_on(device: str) -> str:
    """What the fused core of a device is written in, or `none` and why."""
    return fused.kernel(torch.device(device))
