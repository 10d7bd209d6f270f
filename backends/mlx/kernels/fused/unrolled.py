"""The fused core of MLX in place of `model.unroll`: what its time loop is given, what it gives."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from fwt.backends.mlx.kernels.fused.loop import Schedule, Tree
from fwt.fwcore import fused
from fwt.fwcore.cells import fast_weights
from fwt.fwcore.cells.base import Weights
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON
from fwt.fwcore.cells.fast_weights import FastState
from fwt.fwcore.lookup import LookedUp
from fwt.fwcore.memory import HistoryMemory, Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

TimeLoop = Callable[[Schedule], Callable[[Tree], Tree]]


def unroll(
    time_loop: TimeLoop,
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: mx.array,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[list[mx.array], FastState]:
    """`fwt.fwcore.model.unroll` by the fused core, by a `time_loop` as in `loop.py`; see there."""
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
    turned = x.swapped() if isinstance(x, LookedUp) else mx.swapaxes(x, 0, 1)
    projected = turned @ mx.contiguous(p["core.c"].T)
    return projected + p["core.bias"] if fast_weights.has_bias(cell) else projected
