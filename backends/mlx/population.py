"""A population on MLX: the model mapped over its members, its whole step one traced function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from fwt.backends.contract import Backend
from fwt.backends.mlx.adam import Adam
from fwt.backends.mlx.compiled import restored
from fwt.backends.mlx.module import canonical
from fwt.fwcore import model
from fwt.fwcore.fused import choose
from fwt.fwcore.inputs import check_moments, check_rows, check_split
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import as_parameters, check_fit
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.storage.layouts import permute_in, permute_out
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.population import Member, Rows, own_rates

Arrays = dict[str, mx.array]
Step = Callable[..., mx.array]


class MlxPopulation:
    """`fwt.backends.contract.Population` on MLX; see `compile_population`."""

    backend = "mlx"

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
        # MLX cannot map a function with a gradient of its own
        self._memory = choose(memory, "a population runs the equations", self.backend)
        self._like = backend.compile(specs[0], params[0], device=device, dtype=dtype, memory=memory)
        self._ops = self._like.module.ops
        self._device = mx.Device(getattr(mx, self._like.describe(1, 1)["device"]))
        self._kind = mx.float64 if dtype == "float64" else mx.float32
        first = [self._native(as_parameters(self._table, member, dtype)) for member in params]
        self._rows = Rows(self._table, {name: array.shape for name, array in first[0].items()})
        packed = np.stack([self._rows.pack(member) for member in first])
        with mx.stream(self._device):
            self._state = {"weights": mx.array(packed, dtype=self._kind)}
            self._own = {name: self._ops.constant(array) for name, array in own.items()}
            mx.eval(self._state, self._own)
        self._measure = mx.compile(self._evaluated, inputs=self._state)
        self.members = [Member(self, number) for number in range(len(specs))]
        self._optimizer: Adam | None = None
        self._step: Step | None = None
        self._data: tuple[mx.array, mx.array] | None = None

    def _native(self, params: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
        return {p.name: permute_out(p, params[p.name], "mlx") for p in self._table}

    def _array(self, array: NumpyArray) -> mx.array:
        return self._ops.constant(array) if array.dtype.kind == "f" else mx.array(array)

    def _loss(
        self, weights: Arrays, own: Arrays, inputs: mx.array, targets: mx.array, masks: Arrays
    ) -> tuple[mx.array, mx.array]:
        """Mean cross-entropy and the number of wrong answers of one member."""
        cast = canonical(self._ops, self.specs[0], weights)
        scores = model.logits(
            self._ops, self.specs[0], {**cast, **own}, inputs, model.Masks(**masks), self._memory
        )
        scores = scores.astype(mx.float32) if scores.dtype == mx.bfloat16 else scores
        loss = mx.mean(model.cross_entropy(self._ops, scores, targets))
        return loss, mx.sum(mx.argmax(scores, axis=-1) != targets)

    def _losses(
        self,
        weights: Arrays,
        inputs: mx.array,
        targets: mx.array,
        masks: Arrays,
        batch: int | None,
    ) -> tuple[mx.array, mx.array]:
        """`_loss` of all members, each (P,).

        Args:
            weights, masks: with the axis of members first.
            inputs, targets: likewise, or without it where all members have the same.
            batch: 0 or None, accordingly.
        """
        mapped = mx.vmap(self._loss, in_axes=(0, 0, batch, batch, 0))
        found: tuple[mx.array, mx.array] = mapped(weights, self._own, inputs, targets, masks)
        return found

    def begin_training(self, trains: Sequence[TrainSpec], data: Split) -> None:
        """The optimiser is set up before tracing, so one trace."""
        train, examples = trains[0], self._examples(data.inputs, data.targets)
        with mx.stream(self._device):
            weights = self._state["weights"]
            column = mx.zeros((len(self.members), 1), dtype=self._kind)
            self._optimizer = Adam(
                learning_rate=column,  # pyright: ignore[reportArgumentType]
                betas=[train.beta1, train.beta2],
                eps=train.epsilon,
                bias_correction=True,
            )
            self._optimizer.init({"weights": weights})
            self._optimizer.state["step"] = column.astype(mx.uint64)  # each member's own
            self._step = self._traced_step(train, self._optimizer)
            self._data = examples
            mx.eval(self._data, self._optimizer.state)

    def _traced_step(self, train: TrainSpec, optimizer: Adam) -> Step:
        """One update as one compiled function of (batch, learning rates (P, 1), masks)."""
        decays = mx.array(self._rows.decays, dtype=self._kind)
        state = [self._state, optimizer.state]

        def step(inputs: mx.array, targets: mx.array, lrs: mx.array, masks: Arrays) -> mx.array:
            def total(weights: Arrays) -> tuple[mx.array, tuple[mx.array, mx.array]]:
                losses, wrong = self._losses(weights, inputs, targets, masks, 0)
                return mx.sum(losses), (losses, wrong)

            weights = self._state["weights"]
            (_, (losses, wrong)), found = mx.value_and_grad(total)(self._rows.split(weights))
            parts = [found[name].reshape(len(losses), -1) for name in self._rows.shapes]
            gradients = mx.concatenate(parts, axis=1)
            norms = mx.sqrt(mx.sum(gradients * gradients, axis=1))
            if train.clip:
                gradients = gradients * mx.minimum(train.clip / (norms + 1e-6), 1.0)[:, None]
            if train.weight_decay:
                weights = weights * (1 - lrs * train.weight_decay * decays)
            optimizer.learning_rate = lrs
            updated = optimizer.apply_gradients({"weights": gradients}, {"weights": weights})
            self._state["weights"] = updated["weights"]
            return mx.stack(
                [losses, wrong.astype(losses.dtype), norms.astype(losses.dtype)], axis=1
            )

        traced: Step = mx.compile(step, inputs=state, outputs=state)
        return traced

    def _examples(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[mx.array, mx.array]:
        """Inputs and targets of a batch, checked, on the device."""
        split = check_split(self.specs[0], Split(inputs, targets))
        with mx.stream(self._device):
            return self._array(split.inputs), self._array(split.targets)

    def _adam(self) -> Adam:
        if self._optimizer is None:
            raise RuntimeError("begin_training was not called")
        return self._optimizer

    def train_step(self, rows: NumpyArray, lrs: NumpyArray, dropout: Dropout | None) -> mx.array:
        optimizer, step, data = self._adam(), self._step, self._data
        if step is None or data is None:
            raise RuntimeError("begin_training was not called")
        rows = check_rows(rows, len(data[1]), len(self.members))
        with restored(self._device, self._state, optimizer.state):
            given = {} if dropout is None else dropout._asdict()
            masks = {name: self._array(m) for name, m in given.items() if m is not None}
            chosen = mx.array(rows)
            inputs, targets = (array[chosen] for array in data)
            stats = step(inputs, targets, mx.array(lrs[:, None], dtype=self._kind), masks)
            mx.eval(self._state, optimizer.state, stats)
        return stats

    def fetch(self, stats: Sequence[mx.array]) -> NumpyArray:
        return np.stack([np.array(each) for each in stats]).astype(np.float64)

    def _evaluated(self, inputs: mx.array, targets: mx.array) -> mx.array:
        """Mean losses and wrong answers of a batch that all members share, (P, 2)."""
        weights = self._rows.split(self._state["weights"])
        losses, wrong = self._losses(weights, inputs, targets, {}, None)
        return mx.stack([losses, wrong.astype(losses.dtype)], axis=1)

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
        examples = self._examples(inputs, targets)
        with restored(self._device, self._state):
            found = np.array(self._measure(*examples))
            return found.astype(np.float64) * [len(targets), 1]

    def _unpacked(self, rows: mx.array, member: int) -> dict[str, NumpyArray]:
        """The arrays of a member, canonical."""
        with mx.stream(self._device):
            arrays = self._rows.unpack(np.array(rows[member]))
        return {p.name: permute_in(p, arrays[p.name], "mlx") for p in self._table}

    def _replaced(self, rows: mx.array, member: int, arrays: Mapping[str, NumpyArray]) -> mx.array:
        """`rows` with other arrays, canonical, for a member."""
        found = np.array(rows)
        found[member] = self._rows.pack(self._native(arrays))
        return mx.array(found, dtype=rows.dtype)

    def parameters(self, member: int) -> dict[str, NumpyArray]:
        return self._unpacked(self._state["weights"], member)

    def load_parameters(self, member: int, params: Mapping[str, NumpyArray]) -> None:
        params = check_fit(self._table, params, f"member {member} of the {self.backend} population")
        with mx.stream(self._device):
            self._state["weights"] = self._replaced(self._state["weights"], member, params)
            mx.eval(self._state)

    def optimizer_state(self, member: int) -> dict[str, NumpyArray]:
        moments = self._adam().state["weights"]
        m, v = (self._unpacked(moments[kind], member) for kind in ("m", "v"))
        return {f"{kind}.{name}": found[name] for name in m for kind, found in (("m", m), ("v", v))}

    def load_optimizer_state(
        self, member: int, moments: Mapping[str, NumpyArray], step: int
    ) -> None:
        state = self._adam().state
        moments = check_moments(
            self._table, moments, f"member {member} of the {self.backend} population"
        )
        with mx.stream(self._device):
            steps = np.array(state["step"])
            steps[member] = step
            state["step"] = mx.array(steps)
            for kind in ("m", "v"):
                found = {name: moments[f"{kind}.{name}"] for name in self._rows.shapes}
                rows = state["weights"]
                rows[kind] = self._replaced(rows[kind], member, found)
            mx.eval(state)

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        chosen = model.memory_plan(self.specs[0], self._memory, batch, steps)
        return {
            **self._like.describe(batch, steps),
            "memory": chosen.form if self.specs[0].core.memory_reads else "none",
            "chunk": chosen.chunk,
            "kernel": "none",
            "step": "compiled, members batched",
            "members": len(self.members),
        }


def compile_population(
    backend: Backend,
    specs: Sequence[ModelSpec],
    params: Sequence[Mapping[str, NumpyArray]],
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "auto",
) -> MlxPopulation:
    """The models as one population, see `fwt.backends.contract.compile_population`."""
    return MlxPopulation(backend, specs, params, device, dtype, memory)
