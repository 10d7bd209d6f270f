"""The benchmark's PyTorch side: its own LSTM and GRU, and `naive`, in one training step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fwt.backends.contract import Backend
from fwt.backends.torch.backend import TorchBackend
from fwt.backends.torch.graph import CudaRecorder, Recorder, StepGraph
from fwt.backends.torch.kernels.denormals import flushed
from fwt.bench import machine
from fwt.bench.naive_torch import Naive
from fwt.bench.roofline import Ceilings
from fwt.bench.shapes import TRAIN
from fwt.bench.subjects import (
    NAIVE,
    NAIVE_NAMES,
    OWN,
    Streamer,
    Subject,
    naive_options,
    order_of,
    ours,
)
from fwt.fwcore import model
from fwt.fwcore.layers import encoder_outputs
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.layouts import export
from fwt.fwcore.training.batches import Split

LAYERS: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
CELLS: dict[str, type[nn.LSTMCell | nn.GRUCell]] = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}

EAGER, GRAPH = "eager", "one CUDA graph"


class Own(nn.Module):
    """The network around the framework's own layer: float (B, T, I) -> class scores."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        size = spec.core.size
        self.core = LAYERS[spec.core.kind](encoder_outputs(spec.encoder), size, batch_first=True)
        self.head = nn.ModuleDict({"output": nn.Linear(size, spec.head.classes)})

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of the last output."""
        scores: Tensor = self.head["output"](self.core(x)[0][:, -1])
        return scores


class OwnStreamer:
    """`nn.LSTMCell` or `nn.GRUCell` with its state kept."""

    def __init__(self, spec: ModelSpec, native: Mapping[str, Tensor], device: str) -> None:
        self._cell = CELLS[spec.core.kind](encoder_outputs(spec.encoder), spec.core.size).to(device)
        self._cell.load_state_dict(
            {
                name.removeprefix("core.").removesuffix("_l0"): value
                for name, value in native.items()
                if name.startswith("core.")
            }
        )
        self._state: Any = None

    def step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self._state = self._cell(x, self._state)
        h: Tensor = self._state[0] if isinstance(self._state, tuple) else self._state
        return h


class NaiveStreamer:
    """`Naive.step` with its state kept."""

    def __init__(self, module: Naive) -> None:
        self._module = module
        self._state: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h, fast = self._state or self._module.start(x)
            self._state = self._module.step(x, h, fast)
        return self._state[0]


class TorchSide:
    """`fwt.bench.subjects.Framework` for PyTorch."""

    def __init__(self, backend: TorchBackend, device: str, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.backend: Backend = backend
        self.device = backend.device(device)
        self._kind = torch.device(self.device).type
        self._recorder = CudaRecorder(torch.device(self.device)) if self._kind == "cuda" else None
        self.peak_how = "torch.cuda.max_memory_allocated" if self._kind == "cuda" else None

    def facts(self) -> dict[str, Any]:
        card = torch.cuda.get_device_name(self.device) if self._kind == "cuda" else None
        return {
            "device_name": card or machine.cpu_name(),
            "threads": torch.get_num_threads(),
            "treatment": f"lstm and gru: {GRAPH if self._recorder else EAGER} with fused AdamW, "
            f"no clipping, data on the device; naive: the same, {EAGER}",
        }

    def native(self, array: NumpyArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def numpy(self, value: Tensor) -> NumpyArray:
        found: NumpyArray = value.detach().cpu().numpy()
        return found

    def wait(self, value: Any) -> None:
        if self._kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif self._kind == "mps":
            torch.mps.synchronize()

    def _own(self, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Own:
        module = Own(spec).to(self.device)
        module.load_state_dict(self._exported(spec, params), strict=True)
        return module

    def _exported(self, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> dict[str, Tensor]:
        native = export(model.parameters(spec), spec.core.kind, params, "torch")
        return {name: torch.from_numpy(array) for name, array in native.items()}

    def _naive(self, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Naive:
        module = Naive(**naive_options(spec)).to(self.device)
        own = {NAIVE_NAMES[name]: torch.from_numpy(array) for name, array in params.items()}
        module.load_state_dict(own, strict=True)
        return module

    def subject(
        self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray], data: Split
    ) -> Subject:
        inputs = self.native(data.inputs)
        if name in OWN:
            return self._trained(self._own(spec, params), {}, inputs, data, self._recorder)
        if name == NAIVE:
            return self._trained(self._naive(spec, params), NAIVE_NAMES, inputs, data, None)
        compiled = self.backend.compile(
            spec, params, device=self.device, dtype="float32", memory=name
        )
        return ours(compiled, data, _forward(compiled.module, inputs))

    def _trained(
        self,
        module: nn.Module,
        names: Mapping[str, str],
        inputs: Tensor,
        data: Split,
        recorder: Recorder | None,
    ) -> Subject:
        """A module with a plain training step, recorded as one CUDA graph if there is a recorder.

        The graph is that of our own step, so that both are treated alike.
        """
        targets, rows = self.native(data.targets), order_of(len(data))
        optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=TRAIN.lr,
            betas=(TRAIN.beta1, TRAIN.beta2),
            eps=TRAIN.epsilon,
            weight_decay=TRAIN.weight_decay,
            fused=True,
            capturable=self._kind == "cuda",
        )

        def update(chosen: Tensor, *_: Tensor | None) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            scores = module(inputs.index_select(0, chosen))
            loss = functional.cross_entropy(scores, targets.index_select(0, chosen))
            torch.autograd.backward(loss)
            optimizer.step()
            return loss.detach()

        graph = None if recorder is None else StepGraph(optimizer, update, recorder)

        def train() -> Tensor:
            if graph is None:
                with flushed():  # as in a step of ours
                    return update(self.native(rows))
            return graph(rows, TRAIN.lr, None)

        def gradients() -> dict[str, NumpyArray]:
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(functional.cross_entropy(module(inputs), targets))
            own = dict(module.named_parameters())
            return {name: self.numpy(_gradient(own[mine])) for name, mine in names.items()}

        return Subject(
            facts={
                "memory": "matrix" if names else "none",
                "step": f"{EAGER if graph is None else GRAPH}, fused AdamW",
            },
            forward=_forward(module, inputs),
            train=train,
            statistics=lambda loss: (float(loss), None),
            gradients=gradients,
        )

    def streamer(self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Streamer:
        if name in OWN:
            return OwnStreamer(spec, self._exported(spec, params), self.device)
        if name == NAIVE:
            return NaiveStreamer(self._naive(spec, params))
        compiled = self.backend.compile(
            spec, params, device=self.device, dtype="float32", memory=name
        )
        made: Streamer = compiled.stream(1)
        return made

    def ceilings(self) -> Ceilings:
        side, numbers = (1024, 1 << 24) if self._kind == "cpu" else (8192, 1 << 28)
        one, other = (torch.rand(side, side, device=self.device) for _ in range(2))
        source = torch.rand(numbers, device=self.device)
        target = torch.empty_like(source)
        return Ceilings(
            2.0 * side**3 / self._best(lambda: one @ other),
            2.0 * source.nbytes / self._best(lambda: target.copy_(source)),
        )

    def _best(self, call: Callable[[], Tensor]) -> float:
        """Seconds of the best of six calls after two to warm up."""
        spent = []
        for _ in range(8):
            begin = time.perf_counter()
            self.wait(call())
            spent.append(time.perf_counter() - begin)
        return min(spent[2:])

    def allocated(self) -> int:
        return int(torch.cuda.memory_allocated(self.device))

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return int(torch.cuda.max_memory_allocated(self.device))

    def release(self) -> None:
        gc.collect()
        if self._kind == "cuda":
            torch.cuda.empty_cache()


def _forward(module: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.no_grad():
            scores: Tensor = module(inputs)
        return scores

    return forward


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad
