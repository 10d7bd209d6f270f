"""A model as a `torch.nn.Module` whose `state_dict()` has the canonical names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fwt.backends.torch import kernels
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec


class Network(torch.nn.Module):
    """The model of a spec: int (B, T) or float (B, T, I) -> class scores (B, classes).

    Args:
        spec: the model.
        params: canonical arrays by name, float32 or float64.
        ops: the operations on the device and in the number type of the computation.
        memory: a form of `fwt.fwcore.memory.FORMS`.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: TorchOps, memory: str
    ) -> None:
        super().__init__()
        self.spec, self.ops, self.memory = spec, ops, memory
        self._run = kernels.kernel_of(spec.core, ops, memory).unroll
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
        """Class scores (B, classes); masks as in `fwt.fwcore.model.Masks`."""
        masks = model.Masks(input_mask, hidden_mask)
        weights = self.weights()
        scores: Tensor = model.logits(
            self.ops, self.spec, weights, inputs, masks, self.memory, self._run
        )
        return scores
