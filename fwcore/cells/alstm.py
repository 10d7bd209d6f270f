"""The associative LSTM: a cell of redundant holographic memories, read and written by complex keys.

    g_i, g_f, g_o = sigmoid(...)   R/2 numbers each
    u, r_i, r_o   = bound(...)     R/2 complex numbers each, of Wx x(t) + Wh h(t-1) + b     (1)
    c_s(t) = g_f c_s(t-1) + (P_s r_i) (g_i u),   s = 1..N                                   (2)
    h(t)   = g_o bound(1/N sum_s (P_s r_o) c_s(t))                                          (3)
    bound(z) = z / max(1, |z|)                                                              (4)

All products are of complex numbers, one by one; a gate multiplies both parts of a number. P_s are
fixed permutations: the copies c_s hold the same pairs of key and value, each with noise of its own,
which their mean has less of. h holds the R/2 real parts, then the R/2 imaginary parts.

Source: Danihelka, Wayne, Uria, Kalchbrenner, Graves 2016 (arXiv 1602.03032), the equations of the
redundant associative memory and of the associative LSTM, numbered here as above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import add
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from fwt.fwcore.cells.base import CellSpec, Presets, Weights
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, NumpyArray, Ops
from fwt.fwcore.params import Initialiser, Param, uniform
from fwt.fwcore.rng import Stream


class Spec(CellSpec):
    """Options of the associative LSTM.

    Attributes:
        size: R, twice the count of complex numbers; even.
        copies: N, redundant memories, at most 1000. The source compares several numbers of them,
            Ba et al. 2016 do not print theirs; 4 is ours.
        forget_bias: the forget gate's bias starts at this number (1.0 default, as in our LSTM); the
            other biases start at 0.
    """

    kind: Literal["alstm"] = "alstm"
    copies: Annotated[int, Field(ge=1, le=1000)] = 4
    forget_bias: float = 1.0

    @field_validator("size")
    @classmethod
    def _halves(cls, size: int) -> int:
        if size % 2:
            raise ValueError("expected an even number, because R/2 numbers are complex")
        return size

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """`h`, and the real and imaginary parts of the memories."""
        memories = (self.copies, self.size // 2)
        return {"h": (self.size,), "c_real": memories, "c_imag": memories}

    def kept(self, inputs: int) -> int:
        """Beside an LSTM's arrays about twelve of each copy."""
        return (8 + 12 * self.copies) * self.size


PRESETS: Presets = {"alstm": {}}


def _bias(spec: Spec) -> Initialiser:
    rows = [0.0, spec.forget_bias, *[0.0] * 7]
    return lambda stream, shape: np.repeat(rows, spec.size // 2)


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """Wx (9R/2, I) and Wh (9R/2, R) uniform in +-1/sqrt(R), b (9R/2).

    Their rows are nine parts of R/2: g_i, g_f, g_o; the real parts of u, r_i, r_o; the imaginary
    parts of u, r_i, r_o.
    """
    rows, bound = 9 * (spec.size // 2), spec.size**-0.5
    return [
        Param("core.wx", (rows, inputs), "OI", uniform(bound)),
        Param("core.wh", (rows, spec.size), "OI", uniform(bound)),
        Param("core.bias", (rows,), "U", _bias(spec)),
    ]


@cache
def permutations(half: int, copies: int) -> NumpyArray:
    """P_1 to P_N side by side, (R/2, N R/2): a row vector times this is all its permutations.

    Drawn from a seed of their own, so that the spec alone gives them back: every run has the same,
    and another N leaves the first ones as they are.
    """
    drawn = [Stream(0, "alstm", "permutation", copy).permutation(half) for copy in range(copies)]
    return np.eye(half, dtype=np.int8)[:, np.concatenate(drawn)]


class Complex(NamedTuple):
    """Complex numbers as two arrays of one shape."""

    real: Array
    imag: Array

    def times(self, other: Complex) -> Complex:
        """The product, number by number."""
        return Complex(
            self.real * other.real - self.imag * other.imag,
            self.real * other.imag + self.imag * other.real,
        )

    def scaled(self, factor: Array) -> Complex:
        """Both parts times real numbers."""
        return Complex(self.real * factor, self.imag * factor)

    def bound(self, ops: Ops) -> Complex:
        """Eq. 4. The maximum stands inside the root, whose slope at 0 is infinite."""
        square = 1.0 + ops.relu(self.real * self.real + self.imag * self.imag - 1.0)
        return self.scaled(square**-0.5)


class AssociativeState(NamedTuple):
    """Hidden state and memories."""

    h: Array
    c: Complex

    @property
    def output(self) -> Array:
        """The hidden state."""
        return self.h

    def shift(self, delta: Array) -> AssociativeState:
        return self._replace(h=self.h + delta)

    def arrays(self) -> dict[str, Array]:
        """`h` (B, R); `c_real` and `c_imag`, both (B, N, R/2)."""
        return {"h": self.h, "c_real": self.c.real, "c_imag": self.c.imag}


def project(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Sequence[Array]:
    """Wx x(t) + b for all steps: T arrays (B, 9R/2)."""
    return ops.unbind(x @ p["core.wx"].T + p["core.bias"], 1)


def start(
    ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights
) -> AssociativeState:
    """h(0) = 0 and c_s(0) = 0, or the arrays `given` as `h`, `c_real` and `c_imag`."""
    h = given["h"] if "h" in given else ops.zeros((batch, spec.size))
    zeros = ops.zeros((batch, spec.copies, spec.size // 2))
    return AssociativeState(h, Complex(given.get("c_real", zeros), given.get("c_imag", zeros)))


Associate = Callable[[Ops, Spec, Array, Complex], AssociativeState]


def associate(ops: Ops, spec: Spec, pre: Array, old: Complex) -> AssociativeState:
    """Equations 1 to 3 from `pre` = Wx x(t) + Wh h(t-1) + b (B, 9R/2) and the c_s(t-1)."""
    batch, half, copies = pre.shape[0], spec.size // 2, spec.copies
    gates, real, imag = ops.split(pre, 3)
    g_i, g_f, g_o = ops.split(ops.sigmoid(gates), 3)
    bounded = Complex(real, imag).bound(ops)  # eq. 1
    (u_real, *keys_real), (u_imag, *keys_imag) = (ops.split(part, 3) for part in bounded)
    keys = ops.stack([*keys_real, *keys_imag], 1) @ ops.constant(permutations(half, copies))
    in_real, out_real, in_imag, out_imag = ops.unbind(
        keys.reshape(batch, 4, copies, half), 1
    )  # P_s r_i and P_s r_o, (B, N, R/2)
    value = Complex((g_i * u_real)[:, None], (g_i * u_imag)[:, None])
    written, kept = Complex(in_real, in_imag).times(value), old.scaled(g_f[:, None])
    c = Complex(kept.real + written.real, kept.imag + written.imag)  # eq. 2
    read = Complex(out_real, out_imag).times(c)
    mean = Complex(*(reduce(add, ops.unbind(part, 1)) * (1.0 / copies) for part in read))
    shown = mean.bound(ops).scaled(g_o)  # eq. 3
    return AssociativeState(ops.stack(shown, 1).reshape(batch, spec.size), c)


def step(
    ops: Ops,
    spec: Spec,
    p: Weights,
    z: Array,
    state: AssociativeState,
    t: int,
    associate: Associate = associate,
) -> AssociativeState:
    """Equations 1 to 3.

    Args:
        associate: the function of that name, or what a backend has in its place.
    """
    return associate(ops, spec, z + state.h @ p["core.wh"].T, state.c)
