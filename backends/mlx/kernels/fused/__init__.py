"""The fused core on MLX: where there is one, and its time loop in place of `model.unroll`."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from fwt.backends.mlx.kernels.fused import check, kernel, loop, unrolled
from fwt.backends.mlx.kernels.fused.unrolled import TimeLoop
from fwt.backends.mlx.ops import MlxOps
from fwt.fwcore import fused
from fwt.fwcore.cells.base import CellSpec, Weights
from fwt.fwcore.cells.fast_weights import FastState
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

KERNELS = {"cpu": "custom_function", "metal": "Metal", "cuda": "CUDA"}


def missing(core: CellSpec, ops: MlxOps, device: mx.Device) -> str | None:
    """Why there is no fused core for a model on a device, as a phrase; None if there is one.

    On the CPU it was faster than every other form wherever it was measured: CPU time of the
    training step at (B, T, R) = (128, 11, 50), (128, 24, 50) and (128, 100, 50) was 0.84, 0.76 and
    0.58 of the attention form's. On a GPU there is one once `check.py` has held its kernels, for
    this R and on this device, against the equations.
    """
    reason = fused.uncovered(core)
    if reason is not None:
        return reason
    if ops.dtype == mx.bfloat16:
        return "there is none for dtype bfloat16"
    return None if device.type == mx.cpu else check.failure(core.size, kernel.on_gpu, device.type)  # pyright: ignore[reportArgumentType]


def fault_on(device: mx.Device) -> str | None:
    """What the check of a device's kernels found at fault; None if they hold."""
    return None if device.type == mx.cpu else check.failure(None, kernel.on_gpu, device.type)  # pyright: ignore[reportArgumentType]


def language(device: mx.Device) -> str:
    """What the fused core of a device is written in."""
    return KERNELS["cpu" if device.type == mx.cpu else kernel.language()]


def _time_loop(size: int) -> TimeLoop:
    """The time loop for R units on the device that MLX runs on now.

    The kernels run only where they were checked; a module that was made for the CPU may be called
    on the GPU.
    """
    device = mx.default_device().type
    if device == mx.gpu and check.held(size, kernel.on_gpu, device):
        return partial(kernel.time_loop, run=kernel.on_gpu)
    return loop.time_loop


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: mx.array,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[mx.array], FastState]:
    """`fwt.fwcore.model.unroll` by the fused core; see there."""
    return unrolled.unroll(_time_loop(spec.core.size), ops, spec, p, x, memory, given, first)
