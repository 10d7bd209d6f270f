"""A population on PyTorch: the model mapped over its members, one backward, one Adam for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwt.backends.contract import Backend
from fwt.backends.torch import kernels
from fwt.backends.torch.adam import add_param_group
from fwt.backends.torch.graph import CudaRecorder, StepGraph
from fwt.backends.torch.kernels.denormals import flushed
from fwt.backends.torch.precision import in_precision
from fwt.fwcore import model
from fwt.fwcore.inputs import check_moments, check_rows, check_split
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import as_parameters, check_fit
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.storage.layouts import permute_in
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.population import Member, Rows, own_rates


class Adam(torch.optim.Optimizer):
    """`torch.optim.AdamW` with a learning rate and a step count for each row of an array (P, N).

    Args:
        weights: the array, updated in place by its `grad`.
        decays: 1 where weight decay applies, else 0, (N,).
        train: beta1, beta2, epsilon and weight_decay are those of all rows.

    Attributes:
        lrs: the learning rates, (P, 1), to be filled before each step.
        m, v: the moments, (P, N).
        steps: updates made, (P, 1).
    """

    add_param_group = add_param_group

    def __init__(self, weights: Tensor, decays: Tensor, train: TrainSpec) -> None:
        super().__init__([weights], {})
        self._weights, self._decays, self._train = weights, decays, train
        self.m, self.v = torch.zeros_like(weights), torch.zeros_like(weights)
        self.lrs, self.steps = (weights.new_zeros(len(weights), 1) for _ in range(2))
        self.state[weights] = {"m": self.m, "v": self.v, "steps": self.steps}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        train, gradients = self._train, self._weights.grad
        if gradients is None:
            raise RuntimeError("no gradients")
        self.steps += 1
        if train.weight_decay:
            self._weights.mul_(1 - train.weight_decay * self.lrs * self._decays)
        self.m.lerp_(gradients, 1 - train.beta1)
        self.v.mul_(train.beta2).addcmul_(gradients, gradients, value=1 - train.beta2)
        root = self.v.sqrt().div_(self._corrected(train.beta2).sqrt()).add_(train.epsilon)
        rates = -self.lrs / self._corrected(train.beta1)
        self._weights.addcmul_(root.reciprocal_().mul_(self.m), rates)

    def _corrected(self, beta: float) -> Tensor:
        """1 - beta**step without cancellation, (P, 1)."""
        return -torch.expm1(self.steps * math.log(beta)) if beta else torch.ones_like(self.steps)


class TorchPopulation:
    """`fwt.backends.contract.Population` on PyTorch; see `compile_population`."""

    backend = "torch"

    def __init__(
        self,
        backend: Backend,
        specs: Sequence[ModelSpec],
        params: Sequence[Mapping[str, NumpyArray]],
        device: str,
        dtype: str,
        memory: str,
    ) -> None:
        own = own_rates(specs, dtype)
        self.specs = tuple(specs)
        self._table = model.parameters(specs[0])
        self._like = backend.compile(specs[0], params[0], device=device, dtype=dtype, memory=memory)
        self._ops, self._memory = self._like.module.ops, self._like.module.memory
        kernel = kernels.kernel_of(specs[0].core, self._ops, self._memory, together=True)
        self._run, self._kernel = kernel.unroll, kernel.name
        first = [as_parameters(self._table, member, dtype) for member in params]
        self._rows = Rows(self._table, {p.name: p.shape for p in self._table})
        packed = np.stack([self._rows.pack(member) for member in first])
        self._weights = torch.from_numpy(packed).to(self._ops.device)
        self._leaves = {
            name: part.detach().requires_grad_()
            for name, part in self._rows.split(self._weights).items()
        }
        self._own = {name: self._tensor(array) for name, array in own.items()}
        self.members = [Member(self, number) for number in range(len(specs))]
        self._adam: Adam | None = None
        self._graph: StepGraph | None = None
        self._clip = 0.0
        self._data: tuple[Tensor, Tensor] | None = None

    def _tensor(self, array: NumpyArray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._ops.device)
        return self._ops.cast(tensor) if tensor.is_floating_point() else tensor

    def _loss(
        self,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        input_mask: Tensor | None,
        hidden_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and the number of wrong answers of one member."""
        cast = {name: self._ops.cast(value) for name, value in weights.items()}
        masks = model.Masks(input_mask, hidden_mask)
        scores = model.logits(
            self._ops, self.specs[0], cast, inputs, masks, self._memory, self._run
        )
        scores = scores.float() if scores.dtype == torch.bfloat16 else scores
        loss = model.cross_entropy(self._ops, scores, targets).mean()
        return loss, (scores.argmax(-1) != targets).sum()

    def _losses(
        self, inputs: Tensor, targets: Tensor, batch: int | None, *masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`_loss` of all members, each (P,).

        Args:
            inputs, targets: of all, with the axis of members first; or the same for all.
            batch: 0 or None, accordingly.
            masks: (P, B, I) and (P, B, R), or None.
        """
        axes = (0, batch, batch, *(None if mask is None else 0 for mask in masks))
        weights = {**self._leaves, **self._own}
        found: tuple[Tensor, Tensor] = torch.func.vmap(self._loss, in_dims=axes)(
            weights, inputs, targets, *masks
        )
        return found

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        examples = self._examples(data.inputs, data.targets)
        decays = torch.from_numpy(self._rows.decays).to(self._weights)
        self._adam = Adam(self._weights, decays, trains[0])
        if self._ops.device.type == "cuda":
            self._graph = StepGraph(self._adam, self._update, CudaRecorder(self._ops.device))
        self._clip = trains[0].clip
        self._data = examples

    @in_precision
    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> Tensor:
        rows = check_rows(rows, len(self._split()[1]), len(self.members))
        self._optimizer().lrs.copy_(torch.from_numpy(lrs[:, None]))
        if self._graph is not None:
            return self._graph(rows, 0.0, dropout)  # the members' rates are in their place already
        masks = [None if mask is None else self._tensor(mask) for mask in dropout or (None, None)]
        with flushed():
            return self._update(self._tensor(rows), *masks)

    def _update(self, rows: Tensor, *masks: Tensor | None) -> Tensor:
        """One update on rows of the training split; waits for nothing (`StepGraph`)."""
        inputs, targets = (array[rows] for array in self._split())
        losses, wrong = self._losses(inputs, targets, 0, *masks)
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
        with torch.no_grad():
            gradients = torch.cat([part.reshape(len(losses), -1) for part in found], 1)
            norms = torch.linalg.vector_norm(gradients, dim=1)
            if self._clip:
                gradients *= (self._clip / (norms + 1e-6)).clamp(max=1)[:, None]
            self._weights.grad = gradients
            self._optimizer().step()
            return torch.stack([losses, wrong.to(losses.dtype), norms.to(losses.dtype)], 1)

    def _examples(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch, checked, on the device."""
        split = check_split(self.specs[0], Split(inputs, targets))
        return self._tensor(split.inputs), self._tensor(split.targets)

    def _split(self) -> tuple[Tensor, Tensor]:
        if self._data is None:
            raise RuntimeError("begin_training was not called")
        return self._data

    def _optimizer(self) -> Adam:
        if self._adam is None:
            raise RuntimeError("begin_training was not called")
        return self._adam

    def fetch(self, stats: Sequence[Tensor]) -> NumpyArray:
        found: NumpyArray = torch.stack(list(stats)).cpu().numpy()
        return found.astype(np.float64)

    @in_precision
    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        with torch.no_grad():
            given = self._examples(inputs, targets)
            losses, wrong = self._losses(*given, None, None, None)
            found: NumpyArray = torch.stack([losses, wrong.to(losses.dtype)], 1).cpu().numpy()
            return found.astype(np.float64) * [len(targets), 1]

    def _unpacked(self, row: Tensor) -> dict[str, NumpyArray]:
        """The arrays of a member, canonical."""
        arrays = self._rows.unpack(row.cpu().numpy())
        return {p.name: permute_in(p, arrays[p.name], "torch") for p in self._table}

    def parameters(self, member: int) -> dict[str, NumpyArray]:
        return self._unpacked(self._weights[member])

    def load_parameters(self, member: int, params: Mapping[str, NumpyArray]) -> None:
        params = check_fit(self._table, params, f"member {member} of the {self.backend} population")
        self._weights[member] = torch.from_numpy(self._rows.pack(params)).to(self._weights)

    def optimizer_state(self, member: int) -> dict[str, NumpyArray]:
        adam = self._optimizer()
        m, v = (self._unpacked(moments[member]) for moments in (adam.m, adam.v))
        return {f"{kind}.{name}": found[name] for name in m for kind, found in (("m", m), ("v", v))}

    def load_optimizer_state(
        self, member: int, moments: Mapping[str, NumpyArray], step: int
    ) -> None:
        adam = self._optimizer()
        moments = check_moments(
            self._table, moments, f"member {member} of the {self.backend} population"
        )
        adam.steps[member] = step
        for kind, place in (("m", adam.m), ("v", adam.v)):
            found = {name: moments[f"{kind}.{name}"] for name in self._leaves}
            place[member] = torch.from_numpy(self._rows.pack(found)).to(place)

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        found = self._like.describe(batch, steps)
        how = "one CUDA graph" if self._ops.device.type == "cuda" else "eager"
        own = {"kernel": self._kernel, "step": f"{how}, members batched"}
        return {**found, "members": len(self.members), **own}


def compile_population(
    backend: Backend,
    specs: Sequence[ModelSpec],
    params: Sequence[Mapping[str, NumpyArray]],
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "auto",
) -> TorchPopulation:
    """The models as one population, see `fwt.backends.contract.compile_population`."""
    return TorchPopulation(backend, specs, params, device, dtype, memory)
