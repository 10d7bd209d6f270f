"""Which kernel computes a core in place of the equations, on MLX: said here alone."""

from __future__ import annotations

import mlx.core as mx

from fwt.backends.mlx.kernels import convnet, fused
from fwt.backends.mlx.ops import MlxOps
from fwt.fwcore import fused as fused_cores
from fwt.fwcore import model
from fwt.fwcore.cells.base import CellSpec


def time_loop(core: CellSpec, form: str) -> model.Unroll:
    """The time loop of a core for a form of the fast memory, on the device that MLX runs on now."""
    if form == "fused":
        return fused.unroll
    return convnet.unroll if convnet.covers(core) else model.unroll


def name_of(core: CellSpec, form: str, device: mx.Device, reason: str | None) -> str:
    """What the kernel that runs is written in; else `none`, with why if the device is why.

    Args:
        core: the core.
        form: of the fast memory, as it was chosen.
        device: where the model is.
        reason: what `fused_missing` said, if it was asked.
    """
    if form == "fused":
        return fused.language(device)
    blamed = reason is not None and device.type == mx.gpu and fused_cores.uncovered(core) is None
    return f"none: {reason}" if blamed else "none"


def fused_missing(core: CellSpec, ops: MlxOps, device: mx.Device) -> str | None:
    """Why there is no fused core for a model on a device, as a phrase; None if there is one."""
    return fused.missing(core, ops, device)


def fused_on(device: mx.Device) -> str:
    """What the fused core of a device is written in, or `none` and why; checks it."""
    reason = fused.fault_on(device)
    return fused.language(device) if reason is None else f"none: {reason}"
