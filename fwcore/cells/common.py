"""What several cells share: a state that is the hidden state alone, and a named layer norm."""

from __future__ import annotations

from typing import NamedTuple

from fwt.fwcore.cells.base import Weights
from fwt.fwcore.ops import Array, Ops

LAYER_NORM_EPSILON = 1e-5  # pinned: the default of both frameworks today


class HiddenState(NamedTuple):
    """The hidden state alone."""

    h: Array

    @property
    def output(self) -> Array:
        """The hidden state."""
        return self.h

    def shift(self, delta: Array) -> HiddenState:
        return HiddenState(self.h + delta)

    def arrays(self) -> dict[str, Array]:
        """`h` (B, R)."""
        return {"h": self.h}


def start_hidden(ops: Ops, size: int, batch: int, given: Weights) -> HiddenState:
    """h(0) = 0, or the array `given` as `h`."""
    return HiddenState(given["h"] if "h" in given else ops.zeros((batch, size)))


def normalise(ops: Ops, p: Weights, name: str, x: Array) -> Array:
    """Layer norm of the last axis with the gain `name.weight` and the bias `name.bias`."""
    return ops.layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], LAYER_NORM_EPSILON)
