"""A model compiled for MLX: forward, gradients, one traced training step, optimiser state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, utils

from fwt.backends.mlx import kernels
from fwt.backends.mlx.adam import Adam
from fwt.backends.mlx.blas import use_numpys
from fwt.backends.mlx.module import Network
from fwt.backends.mlx.ops import MlxOps
from fwt.backends.mlx.ranks import MlxRanks
from fwt.fwcore import blas, model
from fwt.fwcore.analysis.flow import perturb
from fwt.fwcore.analysis.trace import Trace, trace
from fwt.fwcore.cells.base import Weights
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
from fwt.fwcore.storage.layouts import permute_in, permute_out
from fwt.fwcore.training.batches import Dropout, Split
from fwt.fwcore.training.ranks import SINGLE, Ranks

Step = Callable[..., mx.array]


@contextmanager
def restored(device: mx.Device, *trees: Any) -> Iterator[None]:
    """On a device; an error inside leaves nested dicts of arrays as they were.

    While MLX traces a function, what the function has captured holds arrays without values; an
    error in the middle would leave them there.
    """
    before = [utils.tree_flatten(tree) for tree in trees]
    try:
        with mx.stream(device):
            yield
    except BaseException:
        for tree, flat in zip(trees, before, strict=True):
            for name, array in flat:
                *path, leaf = name.split(".")
                _leaf(tree, ".".join(path))[leaf] = array
        raise


class Stream(model.Stream):
    """`fwt.fwcore.model.Stream` on a device of MLX."""

    def __init__(
        self, ops: MlxOps, spec: ModelSpec, p: Weights, batch: int, device: mx.Device
    ) -> None:
        self._device = device
        with mx.stream(device):
            super().__init__(ops, spec, p, batch)

    def step(self, x: mx.array) -> mx.array:
        with mx.stream(self._device):
            found: mx.array = super().step(x)
            return found


class MlxCompiled:
    """`fwt.backends.contract.Compiled` on MLX."""

    backend = "mlx"

    def __init__(
        self,
        spec: ModelSpec,
        params: Mapping[str, NumpyArray],
        ops: MlxOps,
        device: mx.Device,
        memory: str,
    ) -> None:
        self.spec = spec
        self._table: dict[str, Param] = {param.name: param for param in model.parameters(spec)}
        self._ops, self._device = ops, device
        asked = memory in ("auto", "fused")  # what is not wanted is not checked
        self._missing = kernels.fused_missing(spec.core, ops, device) if asked else None
        self._memory = choose(memory, self._missing, self.backend)
        with mx.stream(device):
            self.module = Network(spec, self._native(params), ops, self._memory)
            mx.eval(self.module.parameters())
        self._forward = mx.compile(self.module.__call__, inputs=self.module.state)
        self._measure = mx.compile(partial(self._loss, self.module), inputs=self.module.state)
        self._optimizer: Adam | None = None
        self._step: Step | None = None
        self._data: tuple[mx.array, mx.array] | None = None

    def _native(self, params: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
        return {n: permute_out(self._table[n], array, "mlx") for n, array in params.items()}

    def _array(self, array: NumpyArray) -> mx.array:
        return self._ops.constant(array) if array.dtype.kind == "f" else mx.array(array)

    def forward(self, inputs: NumpyArray) -> NumpyArray:
        given = check_inputs(self.spec, inputs)
        with restored(self._device, self.module):
            return _numpy(self._forward(self._array(given)))

    def states(
        self, x: NumpyArray, given: Mapping[str, NumpyArray] | None = None, first: int = 0
    ) -> tuple[NumpyArray, dict[str, NumpyArray]]:
        x = check_core_inputs(self.spec, x, first)
        checked = check_state(self.spec, given, len(x))
        chosen = model.memory_plan(self.spec, self._memory, x.shape[0], x.shape[1])
        with mx.stream(self._device):
            start = {name: self._array(array) for name, array in checked.items()}
            run = kernels.time_loop(self.spec.core, self._memory)
            outputs, state = run(
                self._ops, self.spec, self.module.weights(), self._array(x), chosen, start, first
            )
            final = {name: _numpy(array) for name, array in state.arrays().items()}
            return _numpy(mx.stack(list(outputs), axis=1)), final

    def trace(self, inputs: NumpyArray) -> Trace:
        inputs = check_inputs(self.spec, inputs)
        with mx.stream(self._device):
            weights = self.module.weights()
            return trace(self._ops, self.spec, weights, self._array(inputs), _numpy)

    def stream(self, batch: int) -> Stream:
        """Steps are lazy as all of MLX is, `mx.eval` awaits them."""
        weights = self.module.weights()
        return Stream(self._ops, self.spec, weights, check_batch(batch), self._device)

    def _loss(
        self,
        module: Network,
        inputs: mx.array,
        targets: mx.array,
        input_mask: mx.array | None = None,
        hidden_mask: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Mean cross-entropy and the number of wrong answers."""
        scores = module(inputs, input_mask, hidden_mask)
        scores = scores.astype(mx.float32) if scores.dtype == mx.bfloat16 else scores
        loss = mx.mean(model.cross_entropy(self._ops, scores, targets))
        wrong = mx.sum(mx.argmax(scores, axis=-1) != targets)
        return loss, wrong

    def _examples(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[mx.array, mx.array]:
        """Inputs and targets of a batch, checked, on the device."""
        split = check_split(self.spec, Split(inputs, targets))
        with mx.stream(self._device):
            return self._array(split.inputs), self._array(split.targets)

    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]:
        examples = self._examples(inputs, targets)
        with restored(self._device, self.module):
            measure = nn.value_and_grad(self.module, partial(self._loss, self.module))
            (loss, _), found = measure(*examples)
            return float(_numpy(loss)), self._canonical(found)

    def _canonical(self, tree: Any) -> dict[str, NumpyArray]:
        """A tree of arrays shaped like the parameters, by canonical name and axis order."""
        return {
            name: permute_in(self._table[name], _numpy(array), "mlx")  # pyright: ignore[reportArgumentType]
            for name, array in utils.tree_flatten(tree)
        }

    def hidden_gradients(
        self, inputs: NumpyArray, outputs: NumpyArray, scores: NumpyArray
    ) -> NumpyArray:
        inputs = check_inputs(self.spec, inputs)
        outputs, scores = check_pull(self.spec, inputs, outputs, scores)
        with mx.stream(self._device):
            weights, given = self.module.weights(), self._array(inputs)

            def run(*deltas: mx.array) -> list[mx.array]:
                found, shown = perturb(self._ops, self.spec, weights, given, deltas)
                return [*found, shown]

            deltas = [mx.zeros(part.shape, dtype=self._ops.dtype) for part in outputs]
            pull = [self._array(part) for part in (*outputs, scores)]
            return _numpy(mx.stack(mx.vjp(run, deltas, pull)[1]))

    def begin_training(self, train: TrainSpec, data: Split, ranks: Ranks = SINGLE) -> None:
        """The optimiser is set up before tracing, so one trace."""
        examples = self._examples(data.inputs, data.targets)
        with mx.stream(self._device):
            self._optimizer = Adam(
                learning_rate=self._rate(train.lr),  # pyright: ignore[reportArgumentType]
                betas=[train.beta1, train.beta2],
                eps=train.epsilon,
                bias_correction=True,
            )
            self._optimizer.init(self.module.trainable_parameters())
            self._step = self._traced_step(train, self._optimizer, ranks)
            self._data = examples
            mx.eval(self._data)

    def _traced_step(self, train: TrainSpec, optimizer: Adam, ranks: Ranks) -> Step:
        """One update as one compiled function of (batch, learning rate, masks)."""
        group = ranks.group if isinstance(ranks, MlxRanks) else None
        measure = nn.value_and_grad(self.module, partial(self._loss, self.module))
        state = [self.module.state, optimizer.state]

        def step(
            inputs: mx.array,
            targets: mx.array,
            lr: mx.array,
            input_mask: mx.array | None,
            hidden_mask: mx.array | None,
        ) -> mx.array:
            (loss, wrong), found = measure(inputs, targets, input_mask, hidden_mask)
            if group is not None:
                found = nn.average_gradients(found, group)
            squares = [mx.sum(g * g) for _, g in utils.tree_flatten(found)]  # pyright: ignore[reportOperatorIssue]
            norm = mx.sqrt(mx.sum(mx.stack(squares)))
            if train.clip:
                scale = mx.minimum(train.clip / (norm + 1e-6), 1.0)
                found = utils.tree_map(lambda g: g * scale, found)
            if train.weight_decay:
                self._shrink(1 - lr * train.weight_decay)
            optimizer.learning_rate = lr
            optimizer.update(self.module, found)
            return mx.stack([loss, wrong.astype(loss.dtype), norm.astype(loss.dtype)])

        traced: Step = mx.compile(step, inputs=state, outputs=state)
        return traced

    def _shrink(self, factor: mx.array) -> None:
        """Decoupled weight decay: every matrix times `factor`."""
        flat = utils.tree_flatten(self.module.parameters())
        shrunk = [(name, a * factor) for name, a in flat if self._table[name].decays]
        self.module.update(utils.tree_unflatten(shrunk), strict=False)

    def _rate(self, lr: float) -> mx.array:
        """A learning rate in the type in which the weights are kept."""
        return mx.array(lr, dtype=mx.float64 if self._ops.dtype == mx.float64 else mx.float32)

    def _adam(self) -> Adam:
        if self._optimizer is None:
            raise RuntimeError("begin_training was not called")
        return self._optimizer

    def train_step(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> mx.array:
        optimizer, step, data = self._adam(), self._step, self._data
        if step is None or data is None:
            raise RuntimeError("begin_training was not called")
        rows = check_rows(rows, len(data[1]))
        with restored(self._device, self.module, optimizer.state):
            masks = [None if m is None else self._array(m) for m in dropout or (None, None)]
            chosen = mx.array(rows)
            inputs, targets = (array[chosen] for array in data)
            stats = step(inputs, targets, self._rate(lr), *masks)
            mx.eval(self.module.state, optimizer.state, stats)
        return stats

    def fetch(self, stats: Sequence[mx.array]) -> NumpyArray:
        return np.stack([_numpy(row) for row in stats]).astype(np.float64)

    def evaluate(self, inputs: NumpyArray, targets: NumpyArray) -> tuple[float, int]:
        examples = self._examples(inputs, targets)
        with restored(self._device, self.module):
            loss, wrong = self._measure(*examples)
            return float(_numpy(loss)) * len(targets), int(_numpy(wrong))

    def parameters(self) -> dict[str, NumpyArray]:
        found = self._canonical(self.module.parameters())
        return {name: found[name] for name in self._table}

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None:
        params = check_fit(list(self._table.values()), params, f"{self.backend} model")
        with mx.stream(self._device):
            native = self._native(params)
            kinds = {name: self.module.find(name).dtype for name in native}
            arrays = [(name, mx.array(array, dtype=kinds[name])) for name, array in native.items()]
            self.module.update(utils.tree_unflatten(arrays))
            mx.eval(self.module.parameters())

    def optimizer_state(self) -> dict[str, NumpyArray]:
        state = self._adam().state
        found: dict[str, NumpyArray] = {}
        for name, param in self._table.items():
            moments = _leaf(state, name)
            for moment in ("m", "v"):
                found[f"{moment}.{name}"] = permute_in(param, _numpy(moments[moment]), "mlx")
        return found

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None:
        state = self._adam().state
        moments = check_moments(list(self._table.values()), moments, f"{self.backend} model")
        with mx.stream(self._device):
            state["step"] = mx.array(step, dtype=mx.uint64)
            for name, param in self._table.items():
                leaf = _leaf(state, name)
                for moment in ("m", "v"):
                    array = permute_out(param, moments[f"{moment}.{name}"], "mlx")
                    leaf[moment] = mx.array(array, dtype=leaf[moment].dtype)
            mx.eval(state)

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        chosen = model.memory_plan(self.spec, self._memory, batch, steps)
        place = self._device.type.name
        return {
            "backend": self.backend,
            "device": place,
            "dtype": str(self._ops.dtype).removeprefix("mlx.core."),
            "memory": chosen.form if self.spec.core.memory_reads else "none",
            "chunk": chosen.chunk,
            "kernel": kernels.name_of(self.spec.core, chosen.form, self._device, self._missing),
            "threads": blas.threads() if place == "cpu" and use_numpys() else None,
            "step": "compiled, one trace",
        }


def _leaf(tree: Any, name: str) -> Any:
    """The entry of a nested dict under a dotted name; the dict itself under no name."""
    for part in name.split(".") if name else ():
        tree = tree[part]
    return tree


def _numpy(array: mx.array) -> NumpyArray:
    """An array as NumPy; bfloat16, which NumPy has not, as float32."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)
