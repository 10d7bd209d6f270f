"""The whole training step as one CUDA graph: recorded once, then one call a step.

At the sizes of this package a step is some thirty short kernels, and starting them one by one
takes longer than running them. A graph starts them all at once. It replays the same kernels on
the same addresses, so that
  - rows, dropout masks and learning rate are copied into arrays that never move;
  - weights, moments and step count have to be changed in place. Whoever puts other arrays in
    their place calls `StepGraph.reset`, and the next step records anew;
  - the step must not wait for the device, and no number that changes may be a Python number.
Recording runs the step a few times first, for libraries and kernels that set themselves up in
their first calls; what these runs changed is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training.batches import Dropout

WARM_UPS = 3  # as many as torch's own examples run

# rows (B,) int64, mask of the encoder's outputs (B, I), mask of the last state (B, R) -> (3,)
Update = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
Body = Callable[[], Tensor]


class Recorder(Protocol):
    """What turns a step into something that can be replayed."""

    def warm_up(self, body: Body) -> None:
        """Run the step a few times."""
        ...

    def record(self, body: Body) -> Body:
        """Record the step; each call of the result runs it and gives the same array, refilled."""
        ...


class CudaRecorder:
    """CUDA graphs. Everything happens on one side stream, as capture demands.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, body: Body) -> None:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    body()
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, body: Body) -> Body:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=self._stream):
            result = body()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class StepGraph:
    """A training step that is recorded at its first call and replayed from then on.

    Another batch size, or masks where there were none, records anew.

    Args:
        optimizer: one whose state begins as zeros, as Adam's does, made with `capturable=True`;
            its learning rate becomes an array that this object fills, in float32, because
            torch's fused Adam reads no other (it is off by up to 6e-8 of itself).
        update: the step itself, gradients set to None first; it gives the statistics of
            `Trainable.train_step` and must never wait for the device.
        recorder: how to record; tests pass a stand-in.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, update: Update, recorder: Recorder
    ) -> None:
        self._optimizer, self._update, self._recorder = optimizer, update, recorder
        self._weights: list[Tensor] = [
            weight for group in optimizer.param_groups for weight in group["params"]
        ]
        self._device = self._weights[0].device
        self._lr = torch.zeros((), dtype=torch.float32, device=self._device)
        for group in optimizer.param_groups:
            group["lr"] = self._lr
        self.reset()

    def reset(self) -> None:
        """Forget what was recorded: its arrays are no longer those of the model."""
        self._given: list[Tensor | None] = []
        self._replay: Body | None = None

    def __call__(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> Tensor:
        """One update; arguments and statistics as in `Trainable.train_step`, not awaited."""
        arrays = [rows, *(dropout or (None, None))]
        given = [None if array is None else self._host(array) for array in arrays]
        if _shapes(given) != _shapes(self._given):
            self.reset()
            self._given = [
                None if array is None else torch.empty_like(array, device=self._device)
                for array in given
            ]
        for place, array in zip(self._given, given, strict=True):
            if place is not None and array is not None:
                place.copy_(array, non_blocking=True)
        self._lr.fill_(lr)
        if self._replay is None:
            self._replay = self._record()
        return self._replay().clone()

    def _host(self, array: NumpyArray) -> Tensor:
        """An array that the device can fetch by itself; torch keeps it until that has happened."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _record(self) -> Body:
        rows, inputs, hidden = self._given
        if rows is None:
            raise RuntimeError("no rows to record a step with")

        def body() -> Tensor:
            return self._update(rows, inputs, hidden)

        weights = [weight.detach().clone() for weight in self._weights]
        moments = [
            {name: value.clone() for name, value in self._optimizer.state.get(weight, {}).items()}
            for weight in self._weights
        ]
        try:
            self._recorder.warm_up(body)
        finally:
            self._put_back(weights, moments)
        self._optimizer.zero_grad(set_to_none=True)
        return self._recorder.record(body)

    def _put_back(self, weights: list[Tensor], moments: list[dict[str, Tensor]]) -> None:
        """The state before the warm-up, in place; what began in the warm-up began as zeros."""
        with torch.no_grad():
            for weight, value, kept in zip(self._weights, weights, moments, strict=True):
                weight.copy_(value)
                for name, moment in self._optimizer.state.get(weight, {}).items():
                    if name in kept:
                        moment.copy_(kept[name])
                    else:
                        moment.zero_()


def _shapes(arrays: list[Tensor | None]) -> list[torch.Size | None]:
    return [None if array is None else array.shape for array in arrays]
