"""The GRU in the frameworks' form, gates in the order r, z, n.

    r, z = sigmoid(Wx x + b + Wh h) of their rows
    n    = tanh(Wxn x + b_n + r (Whn h + bias_n))
    h(t) = (1 - z) n + z h(t-1)

With `norm = layer`: LN(Wx x) and LN(Wh h) before the sums, Ba, Kiros, Hinton 2016
(arXiv 1607.06450).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fwt.fwcore.cells.base import CellSpec, Presets, Weights
from fwt.fwcore.cells.common import HiddenState, normalise, start_hidden
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param, constant, layer_norm, uniform


class Spec(CellSpec):
    """Options of the GRU.

    Attributes:
        norm: `layer` normalises both products.
    """

    kind: Literal["gru"] = "gru"
    norm: Literal["none", "layer"] = "none"


PRESETS: Presets = {"gru": {}}


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """Wx (3R, I) and Wh (3R, R) uniform in +-1/sqrt(R), b (3R) = 0, bias_n (R) = 0."""
    size, bound = spec.size, spec.size**-0.5
    table = [
        Param("core.wx", (3 * size, inputs), "OI", uniform(bound)),
        Param("core.wh", (3 * size, size), "OI", uniform(bound)),
        Param("core.bias", (3 * size,), "U", constant(0.0)),
        Param("core.bias_n", (size,), "U", constant(0.0)),
    ]
    if spec.norm == "layer":
        table += layer_norm("core.norm_x", 3 * size) + layer_norm("core.norm_h", 3 * size)
    return table


def project(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Sequence[Array]:
    """Wx x(t) + b for all steps: T arrays (B, 3R)."""
    z = x @ p["core.wx"].T
    if spec.norm == "layer":
        z = normalise(ops, p, "core.norm_x", z)
    return ops.unbind(z + p["core.bias"], 1)


def start(
    ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights
) -> HiddenState:
    """h(0) = 0, or the array `given` as `h`."""
    return start_hidden(ops, spec.size, batch, given)


def step(ops: Ops, spec: Spec, p: Weights, z: Array, state: HiddenState, t: int) -> HiddenState:
    """One GRU step."""
    xr, xz, xn = ops.split(z, 3)
    recurrent = state.h @ p["core.wh"].T
    if spec.norm == "layer":
        recurrent = normalise(ops, p, "core.norm_h", recurrent)
    hr, hz, hn = ops.split(recurrent, 3)
    r, update = ops.sigmoid(xr + hr), ops.sigmoid(xz + hz)
    n = ops.tanh(xn + r * (hn + p["core.bias_n"]))
    return HiddenState((1 - update) * n + update * state.h)
