"""A model as a `torch.nn.Module` whose `state_dict()` has the canonical names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backends.torch import fused, native
from backends.torch.ops import TorchOps
from fwcore import model
from fwcore.cells.base import CellSpec
from fwcore.ops import NumpyArray
from fwcore.spec import ModelSpec


def time_loop(core: CellSpec, ops: TorchOps, memory: str) -> model.Unroll:
    """The time loop of a core: the fused one, the framework's own, or the equations."""
    if memory == "fused":
        return fused.unroll
    return native.unroll if native.covers(core, ops) else model.unroll


class Network(torch.nn.Module):
    """The model of a spec: int (B, T) or float (B, T, I) -> class scores (B, classes).

    Args:
        spec: the model.
        params: canonical arrays by name, float32 or float64.
        ops: the operations on the device and in the number type of the computation.
        memory: a form of `fwcore.memory.FORMS`.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: TorchOps, memory: str
    ) -> None:
        super().__init__()
        self.spec, self.ops, self.memory = spec, ops, memory
        for name, array in params.items():
            values = torch.tensor(array, device=ops.device)
            *path, leaf = name.split(".")
            parent: torch.nn.Module = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, torch.nn.Module())
                parent = parent.get_submodule(part)
            parent.register_parameter(leaf, torch.nn.Parameter(values))

    def weights(self) -> dict[str, Tensor]:
        """The parameters by canonical name, in the number type of the computation."""
        return {name: self.ops.cast(value) for name, value in self.named_parameters()}

    def forward(
        self, inputs: Tensor, input_mask: Tensor | None = None, hidden_mask: Tensor | None = None
    ) -> Tensor:
        """Class scores (B, classes); masks as in `fwcore.model.Masks`."""
        masks = model.Masks(input_mask, hidden_mask)
        weights = self.weights()
        run = time_loop(self.spec.core, self.ops, self.memory)
        scores: Tensor = model.logits(self.ops, self.spec, weights, inputs, masks, self.memory, run)
        return scores
