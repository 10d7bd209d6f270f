"""A model compiled for PyTorch: forward, gradients, training step, optimiser state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter, functional
from torch.nn.parallel import DistributedDataParallel

from fwt.backends.contract import Stream
from fwt.backends.torch import kernels
from fwt.backends.torch.adam import Adam
from fwt.backends.torch.graph import CudaRecorder, StepGraph
from fwt.backends.torch.kernels.denormals import flushed
from fwt.backends.torch.kernels.fused.stream import FusedStream
from fwt.backends.torch.module import Network
from fwt.backends.torch.ops import TorchOps
from fwt.backends.torch.precision import in_precision
from fwt.fwcore import model
from fwt.fwcore.analysis.flow import perturb
from fwt.fwcore.analysis.trace import Trace, trace
from fwt.fwcore.cells import fast_weights
from fwt.fwcore.fused import choose
from fwt.fwcore.inputs import (
    check_batch,
    check_core_inputs,
    check_inputs,
    check_moments,
    check_pull,
    check_rows,
    check_split,
    check_state,
)
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param, check_fit
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.storage.layouts import permute_in
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.ranks import SINGLE, Ranks


class TorchCompiled:
    """`fwt.backends.contract.Compiled` on PyTorch."""

    backend = "torch"

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray], ops: TorchOps, memory: str
    ) -> None:
        self.spec = spec
        self._table: dict[str, Param] = {param.name: param for param in model.parameters(spec)}
        self._ops = ops
        self._memory = choose(memory, kernels.fused_missing(spec.core, ops), self.backend)
        self.module = Network(spec, params, ops, self._memory)
        self._optimizer: Adam | None = None
        self._clip = 0.0
        self._data: tuple[Tensor, Tensor] | None = None
        self._graph: StepGraph | None = None
        self._spread: DistributedDataParallel | None = None

    def _tensor(self, array: NumpyArray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._ops.device)
        return self._ops.cast(tensor) if tensor.is_floating_point() else tensor

    @in_precision
    def forward(self, inputs: NumpyArray) -> NumpyArray:
        with torch.no_grad():
            return _numpy(self.module(self._tensor(check_inputs(self.spec, inputs))))

    @in_precision
    def states(
        self, x: NumpyArray, given: Mapping[str, NumpyArray] | None = None, first: int = 0
    ) -> tuple[NumpyArray, dict[str, NumpyArray]]:
        x = check_core_inputs(self.spec, x, first)
        checked = check_state(self.spec, given, len(x))
        start = {name: self._tensor(array) for name, array in checked.items()}
        form = "auto" if self._memory == "fused" and start else self._memory
        chosen = model.memory_plan(self.spec, form, x.shape[0], x.shape[1])
        run = kernels.kernel_of(self.spec.core, self._ops, form).unroll
        with torch.no_grad():
            outputs, state = run(
                self._ops, self.spec, self.module.weights(), self._tensor(x), chosen, start, first
            )
            final = {name: _numpy(array) for name, array in state.arrays().items()}
            return _numpy(torch.stack(tuple(outputs), 1)), final

    @in_precision
    def trace(self, inputs: NumpyArray) -> Trace:
        with torch.no_grad():
            weights = self.module.weights()
            given = self._tensor(check_inputs(self.spec, inputs))
            return trace(self._ops, self.spec, weights, given, _numpy)

    def stream(self, batch: int) -> Stream:
        batch = check_batch(batch)
        weights = {name: value.detach() for name, value in self.module.weights().items()}
        core = self.spec.core
        if self._memory == "fused" and self._ops.device.type == "cpu":
            assert isinstance(core, fast_weights.Spec)  # noqa: S101 that is what fused covers
            if core.bias:  # the kernel of one step has none
                return model.Stream(self._ops, self.spec, weights, batch)
            return FusedStream(self._ops, core, weights, batch)
        return model.Stream(self._ops, self.spec, weights, batch)

    def _loss(
        self,
        inputs: Tensor,
        targets: Tensor,
        *masks: Tensor | None,
        network: torch.nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and the number of wrong answers; masks as `Network.forward`."""
        network = network or self.module
        scores = network(inputs, *(None if m is None else self._ops.cast(m) for m in masks))
        scores = scores.float() if scores.dtype == torch.bfloat16 else scores
        loss = functional.cross_entropy(scores, targets, reduction="mean")  # model.cross_entropy
        wrong = (scores.argmax(-1) != targets).sum()
        return loss, wrong

    def _examples(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch, checked, on the device."""
        split = check_split(self.spec, Split(inputs, targets))
        return self._tensor(split.inputs), self._tensor(split.targets)

    @in_precision
    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]:
        loss, _ = self._loss(*self._examples(inputs, targets))
        named = dict(self.module.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return loss.item(), {n: _numpy(part) for n, part in zip(named, found, strict=True)}

    @in_precision
    def hidden_gradients(
        self, inputs: NumpyArray, outputs: NumpyArray, scores: NumpyArray
    ) -> NumpyArray:
        inputs = check_inputs(self.spec, inputs)
        outputs, scores = check_pull(self.spec, inputs, outputs, scores)
        deltas = [self._tensor(np.zeros_like(part)).requires_grad_() for part in outputs]
        weights = {name: value.detach() for name, value in self.module.weights().items()}
        found, shown = perturb(self._ops, self.spec, weights, self._tensor(inputs), deltas)
        given = [self._tensor(part) for part in (*outputs, scores)]
        return _numpy(torch.stack(torch.autograd.grad([*found, shown], deltas, given)))

    def begin_training(self, train: TrainSpec, data: Split, ranks: Ranks = SINGLE) -> None:
        """Set up the optimiser, and put the training split on the device.

        On several ranks `DistributedDataParallel` averages the gradients, and a CUDA card runs
        the step kernel by kernel: its graph would have to hold the other ranks' part too.
        """
        examples = self._examples(data.inputs, data.targets)
        if ranks.count > 1:
            # static_graph: a weight that no loss reaches (W_int of one level) is not waited for
            self._spread = DistributedDataParallel(self.module, static_graph=True)
        named = dict(self.module.named_parameters())
        decaying = [value for name, value in named.items() if self._table[name].decays]
        others = [value for name, value in named.items() if not self._table[name].decays]
        groups = [
            {"params": decaying, "weight_decay": train.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        graphed = self._ops.device.type == "cuda" and ranks.count == 1
        self._optimizer = Adam(
            [group for group in groups if group["params"]],
            lr=train.lr,
            betas=(train.beta1, train.beta2),
            eps=train.epsilon,
            amsgrad=False,
            fused=True,
            capturable=graphed,
        )
        if graphed:
            recorder = CudaRecorder(self._ops.device)
            self._graph = StepGraph(self._optimizer, self._update, recorder)
        self._clip = train.clip
        self._data = examples

    def _adam(self) -> Adam:
        if self._optimizer is None:
            raise RuntimeError("begin_training was not called")
        return self._optimizer

    def _split(self) -> tuple[Tensor, Tensor]:
        if self._data is None:
            raise RuntimeError("begin_training was not called")
        return self._data

    @in_precision
    def train_step(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> Tensor:
        rows = check_rows(rows, len(self._split()[1]))
        if self._graph is not None:
            return self._graph(rows, lr, dropout)
        for group in self._adam().param_groups:
            group["lr"] = lr
        masks = [None if mask is None else self._tensor(mask) for mask in dropout or (None, None)]
        with flushed():
            return self._update(self._tensor(rows), *masks)

    def _update(self, rows: Tensor, *masks: Tensor | None) -> Tensor:
        """One update on rows of the training split; waits for nothing (`StepGraph`)."""
        inputs, targets = (array.index_select(0, rows) for array in self._split())
        loss, wrong = self._loss(inputs, targets, *masks, network=self._spread)
        weights = list(self.module.parameters())
        gradients = self._averaged(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.contiguous()  # the fused Adam goes by memory, not by strides
        norm = torch.linalg.vector_norm(torch.cat([part.reshape(-1) for part in gradients]))
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self._clip, norm)
        self._adam().step()
        return torch.stack([loss.detach(), wrong.to(loss.dtype), norm.to(loss.dtype)])

    def _averaged(self, loss: Tensor, weights: list[Parameter]) -> Sequence[Tensor]:
        """The gradients of the loss, averaged over the ranks."""
        if self._spread is None:
            return torch.autograd.grad(loss, weights, materialize_grads=True)
        for weight in weights:
            weight.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]

    def fetch(self, stats: Sequence[Tensor]) -> NumpyArray:
        return _numpy(torch.stack(list(stats))).astype(np.float64)

    @in_precision
    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[float, int]:
        with torch.no_grad():
            loss, wrong = self._loss(*self._examples(inputs, targets))
            return loss.item() * len(targets), int(wrong.item())

    def parameters(self) -> dict[str, NumpyArray]:
        return {
            name: permute_in(self._table[name], _numpy(value).copy(), "torch")
            for name, value in self.module.named_parameters()
        }

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None:
        params = check_fit(list(self._table.values()), params, f"{self.backend} model")
        with torch.no_grad():
            for name, value in self.module.named_parameters():
                value.copy_(torch.tensor(params[name]))

    def optimizer_state(self) -> dict[str, NumpyArray]:
        state = self._adam().state
        found: dict[str, NumpyArray] = {}
        for name, value in self.module.named_parameters():
            moments = state.get(value) or {}
            zeros = torch.zeros_like(value)
            found[f"m.{name}"] = _numpy(moments.get("exp_avg", zeros)).copy()
            found[f"v.{name}"] = _numpy(moments.get("exp_avg_sq", zeros)).copy()
        return found

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None:
        optimizer = self._adam()
        moments = check_moments(list(self._table.values()), moments, f"{self.backend} model")
        for name, value in self.module.named_parameters():
            optimizer.state[value] = {
                "step": torch.tensor(float(step), dtype=torch.float32, device=value.device),
                "exp_avg": torch.tensor(moments[f"m.{name}"]).to(value),
                "exp_avg_sq": torch.tensor(moments[f"v.{name}"]).to(value),
            }
        if self._graph is not None:
            self._graph.reset()  # these are other arrays

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        chosen = model.memory_plan(self.spec, self._memory, batch, steps)
        return {
            "backend": self.backend,
            "device": str(self._ops.device),
            "dtype": str(self._ops.dtype).removeprefix("torch."),
            "memory": chosen.form if self.spec.core.memory_reads else "none",
            "chunk": chosen.chunk,
            "kernel": kernels.kernel_of(self.spec.core, self._ops, chosen.form).name,
            "threads": torch.get_num_threads() if self._ops.device.type == "cpu" else None,
            "step": ("one CUDA graph" if self._ops.device.type == "cuda" else "eager")
            + ", fused Adam",
        }


def _numpy(tensor: Tensor) -> NumpyArray:
    """A tensor as NumPy; bfloat16, which NumPy has not, as float32."""
    found = tensor.detach().cpu()
    result: NumpyArray = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    return result
