"""One time step at a time on the CPU: the fast-weights cell with A as it is written."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fwt.backends.torch.kernels import library
from fwt.backends.torch.kernels.arguments import Array, Table
from fwt.backends.torch.kernels.fused import cpu
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore.cells import fast_weights
from fwt.fwcore.cells.base import Weights
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON
from fwt.fwcore.memory import check_sizes

INPUT = Table("stream.step", {"h": Array("B R"), "x": Array("B I")})


class _Settings(ctypes.Structure):
    """`Stream` of kernel.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "inputs", "size", "inner", "norm")),
        *((name, ctypes.c_double) for name in ("epsilon", "decay", "rate")),
        *((name, ctypes.c_void_p) for name in ("gain", "bias", "h", "fast", "scratch")),
    ]


class FusedStream:
    """`fwt.fwcore.model.Stream` in one call a step; the weights are those of the time it was made.

    Args:
        ops: the operations, for their number type.
        core: a core that `fwt.backends.torch.kernels.fused` covers.
        p: the parameters by canonical name.
        batch: B, sequences side by side.

    Raises:
        ConfigError: B is 0.
    """

    def __init__(self, ops: TorchOps, core: fast_weights.Spec, p: Weights, batch: int) -> None:
        check_sizes(batch, 1)
        self._core, self._t, self._written = core, 0, False
        self._w = [p["core.w"].T.contiguous()]
        self._c = [p["core.c"].T.contiguous()]
        if core.integrate:
            self._w.append(p["core.w_int"].T.contiguous())
            self._c.append(p["core.c_int"].T.contiguous())
        self._inputs = self._c[0].shape[0]
        size, norm, fixed = core.size, core.norm == "sum", fast_weights.rates(ops, core, p)
        unit = ops.zeros((size,))
        self._h, self._fast = ops.zeros((batch, size)), ops.zeros((batch, size, size))
        self._held = [  # arrays that the settings point into
            p["core.norm.weight"].detach().clone() if norm else unit,
            p["core.norm.bias"].detach().clone() if norm else unit,
            self._h,
            self._fast,
            ops.zeros((2, size)),
        ]
        self._settings = _Settings(
            batch,
            self._inputs,
            size,
            core.inner_steps,
            norm,
            LAYER_NORM_EPSILON,
            float(fixed.decay),
            float(fixed.rate),
            *(tensor.data_ptr() for tensor in self._held),
        )
        self._where = ctypes.byref(self._settings)
        self._call = library.entry(cpu.LIBRARY, "stream", ops.dtype)
        self._slow = [
            (ctypes.c_void_p(c.data_ptr()), ctypes.c_void_p(w.data_ptr()))
            for c, w in zip(self._c, self._w, strict=True)
        ]

    def step(self, x: Tensor) -> Tensor:
        """The output of the next time step: (B, I) -> (B, R).

        Raises:
            ConfigError: x is not (B, I) of the model's number type on the CPU.
        """
        _, x = INPUT.check(self._h, x, I=self._inputs)
        out, core, t = torch.empty_like(self._h), self._core, self._t
        stores = core.store is None or t in core.store
        self._call(
            self._where,
            ctypes.c_void_p(x.data_ptr()),
            *self._slow[t in core.integrate],
            self._written,
            stores,
            core.wipe,
            ctypes.c_void_p(out.data_ptr()),
        )
        self._t, self._written = t + 1, self._written or stores
        return out

    def arrays(self) -> dict[str, Tensor]:
        """The state: `h` (B, R) and `A` (B, R, R), copies."""
        return {"h": self._h.clone(), "A": self._fast.clone()}
