"""A model as a plain dict of float64 arrays under the canonical names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwt.backends.numpy.ops import NumpyOps
from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec


class Network(dict[str, NumpyArray]):
    """The model of a spec: int (B, T) or float (B, T, I) -> class scores (B, classes)."""

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: NumpyOps, memory: str
    ) -> None:
        super().__init__({name: array.astype(np.float64) for name, array in params.items()})
        self.spec, self.ops, self.memory = spec, ops, memory

    def __call__(self, inputs: NumpyArray) -> NumpyArray:
        """Class scores (B, classes)."""
        scores: NumpyArray = model.logits(
            self.ops, self.spec, self, inputs, model.Masks(), self.memory
        )
        return scores
