"""A model as an `mlx.nn.Module` whose parameters have the canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx import nn

from fwt.backends.mlx.kernels import time_loop
from fwt.backends.mlx.ops import MlxOps
from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.layouts import turned


def canonical(ops: MlxOps, spec: ModelSpec, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Parameters in MLX's axis order as the equations want them.

    They are in canonical order and in the number type of the computation.
    """
    orders = turned(model.parameters(spec), "mlx")
    return {
        name: ops.cast(a.transpose(*orders[name]) if name in orders else a)
        for name, a in arrays.items()
    }


class Network(nn.Module):
    """The model of a spec: int (B, T) or float (B, T, I) -> class scores (B, classes).

    Args:
        spec: the model.
        params: arrays by canonical name in MLX's axis order, float32 or float64.
        ops: the operations in the number type of the computation.
        memory: a form of `fwt.fwcore.memory.FORMS`.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: MlxOps, memory: str
    ) -> None:
        super().__init__()
        self.spec, self.ops, self.memory = spec, ops, memory
        self.names = frozenset(params)
        for name, array in params.items():
            *path, leaf = name.split(".")
            parent: nn.Module = self
            for part in path:
                if part not in parent:
                    setattr(parent, part, nn.Module())
                parent = parent[part]
            kind = mx.float64 if array.dtype.itemsize == 8 else mx.float32
            setattr(parent, leaf, mx.array(array, dtype=kind))

    def weights(self) -> dict[str, mx.array]:
        """The parameters by canonical name, as `canonical` gives them."""
        arrays = {name: self.find(name) for name in sorted(self.names)}
        return canonical(self.ops, self.spec, arrays)

    def find(self, name: str) -> mx.array:
        """One parameter by canonical name."""
        found: Any = self
        for part in name.split("."):
            found = found[part]
        array: mx.array = found
        return array

    def __call__(
        self,
        inputs: mx.array,
        input_mask: mx.array | None = None,
        hidden_mask: mx.array | None = None,
    ) -> mx.array:
        """Class scores (B, classes); masks as in `fwt.fwcore.model.Masks`."""
        masks = model.Masks(input_mask, hidden_mask)
        weights = self.weights()
        run = time_loop(self.spec.core, self.memory)
        scores: mx.array = model.logits(
            self.ops, self.spec, weights, inputs, masks, self.memory, run
        )
        return scores
