"""The fused core on MLX: where there is one, and its time loop in place of `model.unroll`."""

from __future__ import annotations

import mlx.core as mx

from backends.mlx.fused.loop import Schedule, Tree, time_loop
from backends.mlx.ops import MlxOps
from fwcore import fused
from fwcore.cells import fast_weights
from fwcore.cells.base import CellSpec, Weights
from fwcore.cells.common import LAYER_NORM_EPSILON
from fwcore.cells.fast_weights import FastState
from fwcore.memory import HistoryMemory, Plan
from fwcore.ops import Ops
from fwcore.spec import ModelSpec

KERNEL = "custom_function"


def missing(core: CellSpec, ops: MlxOps, device: mx.Device) -> str | None:
    """Why there is no fused core for a model on a device, as a phrase; None if there is one.

    On the CPU it was faster than every other form wherever it was measured: CPU time of the
    training step at (B, T, R) = (128, 11, 50), (128, 24, 50) and (128, 100, 50) was 0.84, 0.76 and
    0.58 of the attention form's. On a GPU nothing was measured, so there is none.
    """
    reason = fused.uncovered(core)
    if reason is not None:
        return reason
    if ops.dtype == mx.bfloat16:
        return "there is none for dtype bfloat16"
    return None if device.type == mx.cpu else "there is none for device gpu"


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: mx.array,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[mx.array], FastState]:
    """`fwcore.model.unroll` by the fused core; see there."""
    cell, start = spec.core, dict(given or {})
    assert isinstance(cell, fast_weights.Spec)  # noqa: S101 `missing` was asked
    controls = fused.controls(cell, x.shape[1], first)
    schedule = Schedule(
        which=tuple(controls.which.tolist()),
        stores=tuple(controls.stores.tolist()),
        wipe=cell.wipe,
        inner=cell.inner_steps,
        epsilon=LAYER_NORM_EPSILON if cell.norm == "sum" else None,
        chunk=min(memory.chunk, x.shape[1]),
    )
    rates = fast_weights.rates(ops, cell, p)
    arrays: Tree = {
        "z": _slow_input(ops, cell, p, x, first),
        "w": [p["core.w"], p["core.w_int"]] if any(schedule.which) else [p["core.w"]],
        "weights": rates.weights(range(schedule.chunk - 1, -1, -1))[:, None, None],
        "powers": rates.power(range(schedule.chunk + 1)),
    }
    if schedule.epsilon is not None:
        arrays |= {"gain": p["core.norm.weight"], "bias": p["core.norm.bias"]}
    if "h" in start:
        arrays["h"] = start["h"][None]
    if "A" in start:
        arrays["A"] = start["A"]
    found = time_loop(schedule)(arrays)
    outputs = [*ops.unbind(found["outputs"], 0)[:-1], found["last"][0]]
    last = outputs[-1] if schedule.passes(len(outputs) - 1) else mx.zeros_like(outputs[-1])
    states = [(t, h) for t, h in enumerate(outputs) if schedule.stores[t]]
    final = HistoryMemory(
        rates,
        border=start.get("A"),
        border_age=len(outputs),
        states=tuple(h for _, h in states),
        ages=tuple(len(outputs) - 1 - t for t, _ in states),
    )
    return outputs, FastState(last, outputs[-1], final)


def _slow_input(ops: Ops, cell: fast_weights.Spec, p: Weights, x: mx.array, first: int) -> mx.array:
    """`fast_weights.slow_input` with time first, (T, B, R), and the cheaper layout of C."""
    steps = range(first, first + x.shape[1])
    if not set(cell.integrate).isdisjoint(steps):
        return mx.swapaxes(fast_weights.slow_input(ops, cell, p, x, first), 0, 1)
    return mx.swapaxes(x, 0, 1) @ mx.contiguous(p["core.c"].T)
