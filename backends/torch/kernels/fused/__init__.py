"""The fused core on PyTorch: where there is one, and its time loop in place of `model.unroll`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwt.backends.torch.kernels import library
from fwt.backends.torch.kernels.fused import cpu, operator
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import fused
from fwt.fwcore.cells import fast_weights
from fwt.fwcore.cells.base import CellSpec, Weights
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

KERNELS = {"cpu": "C++", "cuda": "Triton"}


def missing(core: CellSpec, ops: TorchOps) -> str | None:
    """Why there is no fused core for a model on a device, as a phrase; None if there is one."""
    reason = fused.uncovered(core)
    if reason is not None:
        return reason
    if ops.dtype not in library.NAMES:
        return f"there is none for dtype {str(ops.dtype).removeprefix('torch.')}"
    return _missing_on(ops.device)


def _missing_on(device: torch.device) -> str | None:
    if device.type not in KERNELS:
        return f"there is none for device {device.type}"
    if device.type == "cpu":
        return library.missing(cpu.LIBRARY)
    return None if find_spec("triton") else "Triton is not installed"


def kernel(device: torch.device) -> str:
    """What the fused core of a device is written in, or `none` and why."""
    reason = _missing_on(device)
    return KERNELS[device.type] if reason is None else f"none: {reason}"


@lru_cache(maxsize=64)
def _controls(
    core: fast_weights.Spec, steps: int, first: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`fwt.fwcore.fused.controls` on a device, sent once."""
    return tuple(torch.tensor(a, device=device) for a in fused.controls(core, steps, first))  # type: ignore[return-value]


def _scalar(ops: Ops, number: float | Tensor) -> Tensor:
    """A number, fixed or trained, as an array (1,) on the device."""
    if isinstance(number, Tensor):
        return number.reshape(1)
    constant: Tensor = ops.constant(np.array([number]))
    return constant


class Outputs(Sequence[Tensor]):
    """Outputs (B, T, R) step by step, each (B, R); one that is taken costs no copy of the rest."""

    def __init__(self, out: Tensor) -> None:
        self._out = out

    def __len__(self) -> int:
        return self._out.shape[1]

    def __getitem__(self, t: Any) -> Any:
        return self._out[:, t]


class Final:
    """The final state: h, and A from the stored states, computed when asked for."""

    def __init__(
        self, out: Tensor, stores: Tensor, wipe: bool, decay: Tensor, rate: Tensor
    ) -> None:
        self._out, self._stores, self._wipe = out, stores, wipe
        self._decay, self._rate = decay, rate

    def arrays(self) -> dict[str, Tensor]:
        """`h` (B, R) and, if something was stored, `A` (B, R, R), by eq. 1 in closed form."""
        steps = self._out.shape[1]
        last = self._out[:, -1]
        found = {"h": torch.zeros_like(last) if self._wipe and self._stores[-1] else last}
        if self._stores.any():
            ages = torch.arange(steps - 1, -1, -1, device=last.device, dtype=last.dtype)
            weights = (self._rate * self._decay**ages)[self._stores]
            past = self._out[:, self._stores]
            found["A"] = past.mT @ (past * weights[:, None])
        return found


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Tensor,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[Outputs, Final]:
    """`fwt.fwcore.model.unroll` in one operator, from zeros: the outputs and the final state."""
    core = spec.core
    assert isinstance(core, fast_weights.Spec)  # noqa: S101 `missing` was asked
    z = fast_weights.slow_input(ops, core, p, x, first)
    which, stores = _controls(core, x.shape[1], first, z.device)  # pyright: ignore[reportArgumentType]
    w = [p["core.w"], p["core.w_int"]] if core.integrate else [p["core.w"]]
    norm = core.norm == "sum"
    unit = z.new_empty(1, core.size)
    fixed = fast_weights.rates(ops, core, p)
    decay, rate = (_scalar(ops, number) for number in (fixed.decay, fixed.rate))
    out, _ = operator.fast_weights(
        z[None],
        torch.stack(w)[None],
        which,
        stores,
        core.wipe,
        core.inner_steps,
        norm,
        p["core.norm.weight"][None] if norm else unit,
        p["core.norm.bias"][None] if norm else unit,
        decay,
        rate,
        min(memory.chunk, x.shape[1]),
    )
    states = out.squeeze(0)
    return Outputs(states), Final(states, stores, core.wipe, decay, rate)
