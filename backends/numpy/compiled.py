"""A model compiled for NumPy: the float64 forward pass; what needs autodiff is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from fwt.backends.numpy.module import Network
from fwt.backends.numpy.ops import NumpyOps
from fwt.fwcore import blas, model
from fwt.fwcore.analysis.trace import Trace, trace
from fwt.fwcore.errors import BackendError
from fwt.fwcore.fused import choose
from fwt.fwcore.inputs import (
    check_batch,
    check_core_inputs,
    check_inputs,
    check_state,
    check_targets,
)
from fwt.fwcore.ops import Array, NumpyArray
from fwt.fwcore.params import check_fit
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.ranks import SINGLE, Ranks


class NumpyCompiled:
    """`fwt.backends.contract.Compiled` on NumPy."""

    backend = "numpy"

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: NumpyOps, memory: str
    ) -> None:
        self.spec = spec
        self._ops = ops
        self._memory = choose(memory, "it runs the equations alone", self.backend)
        self.module = Network(spec, params, ops, memory)

    def _input(self, inputs: NumpyArray) -> NumpyArray:
        checked = check_inputs(self.spec, inputs)
        return checked.astype(np.float64) if checked.dtype.kind == "f" else checked

    def forward(self, inputs: NumpyArray) -> NumpyArray:
        return self.module(self._input(inputs))

    def states(
        self, x: NumpyArray, given: Mapping[str, NumpyArray] | None = None, first: int = 0
    ) -> tuple[NumpyArray, dict[str, NumpyArray]]:
        x = check_core_inputs(self.spec, x, first).astype(np.float64)
        start = check_state(self.spec, given, len(x))
        chosen = model.memory_plan(self.spec, self._memory, x.shape[0], x.shape[1])
        outputs, state = model.unroll(self._ops, self.spec, self.module, x, chosen, start, first)
        return np.stack(outputs, 1), dict(state.arrays())

    def trace(self, inputs: NumpyArray) -> Trace:
        return trace(self._ops, self.spec, self.module, self._input(inputs), np.asarray)

    def stream(self, batch: int) -> model.Stream:
        return model.Stream(self._ops, self.spec, self.module, check_batch(batch))

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[float, int]:
        scores = self.forward(inputs)
        targets = check_targets(self.spec, targets, len(scores))
        losses = model.cross_entropy(self._ops, scores, targets)
        return float(losses.sum()), int((scores.argmax(-1) != targets).sum())

    def parameters(self) -> dict[str, NumpyArray]:
        return {name: array.copy() for name, array in self.module.items()}

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None:
        params = check_fit(model.parameters(self.spec), params, f"{self.backend} model")
        self.module.update({name: np.asarray(a, np.float64) for name, a in params.items()})

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        chosen = model.memory_plan(self.spec, self._memory, batch, steps)
        return {
            "backend": self.backend,
            "device": "cpu",
            "dtype": "float64",
            "memory": chosen.form if self.spec.core.memory_reads else "none",
            "chunk": chosen.chunk,
            "threads": blas.threads(),
            "step": "none: forward only",
        }

    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]:
        """Always raises BackendError."""
        _refuse("gradients")

    def hidden_gradients(
        self, inputs: NumpyArray, outputs: NumpyArray, scores: NumpyArray
    ) -> NumpyArray:
        """Always raises BackendError."""
        _refuse("gradients")

    def begin_training(self, train: TrainSpec, data: Split, ranks: Ranks = SINGLE) -> None:
        """Always raises BackendError."""
        _refuse("training")

    def train_step(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> NoReturn:
        """Always raises BackendError."""
        _refuse("training")

    def fetch(self, stats: Sequence[Array]) -> NumpyArray:
        """Always raises BackendError."""
        _refuse("training")

    def optimizer_state(self) -> dict[str, NumpyArray]:
        """Always raises BackendError."""
        _refuse("training")

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None:
        """Always raises BackendError."""
        _refuse("training")


def _refuse(what: str) -> NoReturn:
    raise BackendError(
        f"backend numpy: it has no {what}, only the forward pass; use --backend torch or mlx"
    )
