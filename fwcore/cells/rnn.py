"""The plain recurrent network, h(t) = f(b + W h(t-1) + U x(t)), and its IRNN preset.

With `norm = layer`, h(t) = f(LN[b + W h(t-1) + U x(t)]). IRNN: Le, Jaitly, Hinton 2015
(arXiv 1504.00941): ReLU, W = scaled identity, no layer norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fwt.fwcore.cells.base import CellSpec, Presets, Weights
from fwt.fwcore.cells.common import HiddenState, normalise, start_hidden
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param, constant, identity, layer_norm, uniform


class Spec(CellSpec):
    """Options of the plain recurrent network.

    Attributes:
        activation: f, `tanh` or `relu`.
        norm: `layer` normalises the sum inside f.
        recurrent_init: W starts `uniform` in +-1/sqrt(R) or as `identity` times `init_scale`.
        init_scale: the scale of the identity (1.0 default); not used with `uniform`.
    """

    kind: Literal["rnn"] = "rnn"
    activation: Literal["tanh", "relu"] = "tanh"
    norm: Literal["none", "layer"] = "none"
    recurrent_init: Literal["uniform", "identity"] = "uniform"
    init_scale: float = 1.0


PRESETS: Presets = {
    "rnn": {},
    "irnn": {"activation": "relu", "recurrent_init": "identity"},
}


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """W (R, R), U (R, I) uniform in +-1/sqrt(R), b = 0."""
    size, bound = spec.size, spec.size**-0.5
    square = identity(spec.init_scale) if spec.recurrent_init == "identity" else uniform(bound)
    table = [
        Param("core.wh", (size, size), "OI", square),
        Param("core.wx", (size, inputs), "OI", uniform(bound)),
        Param("core.bias", (size,), "U", constant(0.0)),
    ]
    return table + (layer_norm("core.norm", size) if spec.norm == "layer" else [])


def project(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Sequence[Array]:
    """U x(t) + b for all steps: T arrays (B, R)."""
    return ops.unbind(x @ p["core.wx"].T + p["core.bias"], 1)


def start(
    ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights
) -> HiddenState:
    """h(0) = 0, or the array `given` as `h`."""
    return start_hidden(ops, spec.size, batch, given)


def step(ops: Ops, spec: Spec, p: Weights, z: Array, state: HiddenState, t: int) -> HiddenState:
    """f(z + W h), normalised inside f if the spec says so."""
    total = z + state.h @ p["core.wh"].T
    if spec.norm == "layer":
        total = normalise(ops, p, "core.norm", total)
    return HiddenState(ops.tanh(total) if spec.activation == "tanh" else ops.relu(total))
