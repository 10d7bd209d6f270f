"""The LSTM with one bias, gates in the order i, f, g, o (that of both frameworks).

    i, f, o = sigmoid(...), g = tanh(...) of Wx x(t) + Wh h(t-1) + b
    c(t) = f c(t-1) + i g,   h(t) = o tanh(c(t))

With `norm = layer`: LN(Wx x) + LN(Wh h) + b and h = o tanh(LN(c)), Ba, Kiros, Hinton 2016
(arXiv 1607.06450), supplementary eq. 20-22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from fwt.fwcore.cells.base import CellSpec, Presets, Weights
from fwt.fwcore.cells.common import normalise
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Initialiser, Param, layer_norm, uniform


class Spec(CellSpec):
    """Options of the LSTM.

    Attributes:
        norm: `layer` normalises both products and the cell's output.
        forget_bias: the forget gate's bias starts at this number (1.0 default, so that the
            cell remembers from the first update on); the other biases start at 0.
    """

    kind: Literal["lstm"] = "lstm"
    norm: Literal["none", "layer"] = "none"
    forget_bias: float = 1.0

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """`h` and the cell `c`."""
        return {"h": (self.size,), "c": (self.size,)}


PRESETS: Presets = {"lstm": {}}


def _gate_bias(spec: Spec) -> Initialiser:
    return lambda stream, shape: np.repeat([0.0, spec.forget_bias, 0.0, 0.0], spec.size)


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """Wx (4R, I) and Wh (4R, R) uniform in +-1/sqrt(R), b (4R)."""
    size, bound = spec.size, spec.size**-0.5
    table = [
        Param("core.wx", (4 * size, inputs), "OI", uniform(bound)),
        Param("core.wh", (4 * size, size), "OI", uniform(bound)),
        Param("core.bias", (4 * size,), "U", _gate_bias(spec)),
    ]
    if spec.norm == "layer":
        table += layer_norm("core.norm_x", 4 * size) + layer_norm("core.norm_h", 4 * size)
        table += layer_norm("core.norm_c", size)
    return table


class LSTMState(NamedTuple):
    """Hidden state and cell."""

    h: Array
    c: Array

    @property
    def output(self) -> Array:
        """The hidden state."""
        return self.h

    def shift(self, delta: Array) -> LSTMState:
        return self._replace(h=self.h + delta)

    def arrays(self) -> dict[str, Array]:
        """`h` and `c`, both (B, R)."""
        return {"h": self.h, "c": self.c}


def project(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Sequence[Array]:
    """Wx x(t) + b for all steps: T arrays (B, 4R)."""
    z = x @ p["core.wx"].T
    if spec.norm == "layer":
        z = normalise(ops, p, "core.norm_x", z)
    return ops.unbind(z + p["core.bias"], 1)


def start(ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights) -> LSTMState:
    """h(0) = c(0) = 0, or the arrays `given` as `h` and `c`."""
    zeros = ops.zeros((batch, spec.size))
    return LSTMState(given.get("h", zeros), given.get("c", zeros))


def step(ops: Ops, spec: Spec, p: Weights, z: Array, state: LSTMState, t: int) -> LSTMState:
    """One LSTM step."""
    recurrent = state.h @ p["core.wh"].T
    if spec.norm == "layer":
        recurrent = normalise(ops, p, "core.norm_h", recurrent)
    i, f, g, o = ops.split(z + recurrent, 4)
    c = ops.sigmoid(f) * state.c + ops.sigmoid(i) * ops.tanh(g)
    shown = normalise(ops, p, "core.norm_c", c) if spec.norm == "layer" else c
    return LSTMState(ops.sigmoid(o) * ops.tanh(shown), c)
