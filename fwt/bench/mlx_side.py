"""The benchmark's MLX side: its own LSTM and GRU in one compiled step; `naive` is not compiled."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers, utils

from fwt.backends.contract import Backend
from fwt.backends.mlx.backend import MlxBackend
from fwt.bench import machine
from fwt.bench.naive_mlx import Naive
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
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.layers import encoder_outputs
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.layouts import export
from fwt.fwcore.training.batches import Split

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Own(nn.Module):
    """The network around the framework's own layer: float (B, T, I) -> class scores."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        size = spec.core.size
        self.core = LAYERS[spec.core.kind](encoder_outputs(spec.encoder), size)
        self.head = {"output": nn.Linear(size, spec.head.classes)}

    def __call__(self, x: mx.array) -> mx.array:
        """Class scores of the last output."""
        found = self.core(x)
        outputs = found[0] if isinstance(found, tuple) else found
        scores: mx.array = self.head["output"](outputs[:, -1])
        return scores


class OwnStreamer:
    """`nn.LSTM` or `nn.GRU` on sequences of one step, compiled, with its state kept."""

    def __init__(self, module: Own, device: mx.Device) -> None:
        core = module.core

        def step(x: mx.array, *state: mx.array) -> tuple[mx.array, ...]:
            found = core(x[:, None], *state)
            return tuple(part[:, 0] for part in (found if isinstance(found, tuple) else (found,)))

        self._step = mx.compile(step, inputs=core.state)
        self._device = device
        self._state: tuple[mx.array, ...] = ()

    def step(self, x: mx.array) -> mx.array:
        with mx.stream(self._device):
            self._state = self._step(x, *self._state)
            mx.eval(self._state)
        return self._state[0]


class NaiveStreamer:
    """`Naive.step` with its state kept."""

    def __init__(self, module: Naive, device: mx.Device) -> None:
        self._module, self._device = module, device
        self._state: tuple[mx.array, mx.array] | None = None

    def step(self, x: mx.array) -> mx.array:
        with mx.stream(self._device):
            h, fast = self._state or self._module.start(x)
            self._state = self._module.step(x, h, fast)
            mx.eval(self._state)
        return self._state[0]


class MlxSide:
    """`fwt.bench.subjects.Framework` for MLX."""

    peak_how: str | None = "mlx.core.get_peak_memory"

    def __init__(self, backend: MlxBackend, device: str, threads: int | None) -> None:
        if threads is not None:
            raise ConfigError(
                f"--threads: expected none because MLX has no such setting, got threads={threads}"
            )
        self.backend: Backend = backend
        self.device = backend.device(device)
        self._unit = mx.Device(mx.gpu if self.device == "gpu" else mx.cpu)

    def facts(self) -> dict[str, Any]:
        card = mx.device_info().get("device_name") if self.device == "gpu" else None
        return {
            "device_name": str(card or machine.cpu_name()),
            "threads": None,
            "treatment": "lstm and gru: one compiled step, AdamW set up before, data on the "
            "device; naive: the same, not compiled",
        }

    def native(self, array: NumpyArray) -> mx.array:
        with mx.stream(self._unit):
            made = mx.array(array)
            mx.eval(made)
        return made

    def numpy(self, value: mx.array) -> NumpyArray:
        return np.array(value)

    def wait(self, value: Any) -> None:
        mx.eval(value)
        mx.synchronize(mx.default_stream(self._unit))

    def _own(self, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Own:
        module = Own(spec)
        self._load(module, export(model.parameters(spec), spec.core.kind, params, "mlx"))
        return module

    def _naive(self, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Naive:
        module = Naive(**naive_options(spec))
        self._load(module, {NAIVE_NAMES[name]: array for name, array in params.items()})
        return module

    def _load(self, module: Own | Naive, native: Mapping[str, NumpyArray]) -> None:
        with mx.stream(self._unit):
            module.load_weights([(name, mx.array(a)) for name, a in native.items()], strict=True)
            mx.eval(module.parameters())

    def subject(
        self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray], data: Split
    ) -> Subject:
        inputs = self.native(data.inputs)
        if name in OWN:
            return self._trained(self._own(spec, params), {}, inputs, data, compiled=True)
        if name == NAIVE:
            naive = self._naive(spec, params)
            return self._trained(naive, NAIVE_NAMES, inputs, data, compiled=False)
        made = self.backend.compile(spec, params, device=self.device, dtype="float32", memory=name)
        return ours(made, data, self._forward(made.module, inputs, compiled=True))

    def _forward(self, module: Any, inputs: mx.array, compiled: bool) -> Callable[[], mx.array]:
        call = mx.compile(module.__call__, inputs=module.state) if compiled else module

        def forward() -> mx.array:
            with mx.stream(self._unit):
                scores: mx.array = call(inputs)
                mx.eval(scores)
            return scores

        return forward

    def _trained(
        self, module: Any, names: Mapping[str, str], inputs: mx.array, data: Split, compiled: bool
    ) -> Subject:
        """A module that is trained as MLX's users train theirs."""
        targets, rows = self.native(data.targets), order_of(len(data))
        optimizer = optimizers.AdamW(
            learning_rate=TRAIN.lr,
            betas=[TRAIN.beta1, TRAIN.beta2],
            eps=TRAIN.epsilon,
            weight_decay=TRAIN.weight_decay,
            bias_correction=True,
        )

        def loss_of(x: mx.array, y: mx.array) -> mx.array:
            loss: mx.array = nn.losses.cross_entropy(module(x), y, reduction="mean")
            return loss

        measure = nn.value_and_grad(module, loss_of)

        def step(x: mx.array, y: mx.array) -> mx.array:
            loss: mx.array
            loss, found = measure(x, y)
            optimizer.update(module, found)
            return loss

        with mx.stream(self._unit):
            optimizer.init(module.trainable_parameters())
            mx.eval(optimizer.state)
        state = [module.state, optimizer.state]
        update = mx.compile(step, inputs=state, outputs=state) if compiled else step

        def train() -> mx.array:
            with mx.stream(self._unit):
                chosen = mx.array(rows)
                loss: mx.array = update(inputs[chosen], targets[chosen])
                mx.eval(loss, module.state, optimizer.state)
            return loss

        def gradients() -> dict[str, NumpyArray]:
            with mx.stream(self._unit):
                found = dict(utils.tree_flatten(measure(inputs, targets)[1]))
                return {name: self.numpy(found[own]) for name, own in names.items()}

        return Subject(
            facts={
                "memory": "matrix" if names else "none",
                "step": "compiled, AdamW" if compiled else "not compiled, AdamW",
            },
            forward=self._forward(module, inputs, compiled),
            train=train,
            statistics=lambda loss: (loss.item(), None),
            gradients=gradients,
        )

    def streamer(self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Streamer:
        if name in OWN:
            return OwnStreamer(self._own(spec, params), self._unit)
        if name == NAIVE:
            return NaiveStreamer(self._naive(spec, params), self._unit)
        compiled = self.backend.compile(
            spec, params, device=self.device, dtype="float32", memory=name
        )
        made: Streamer = compiled.stream(1)
        return made

    def ceilings(self) -> Ceilings:
        """MLX leaves plain copies out, so this one changes the sign."""
        side, numbers = (512, 1 << 24) if self.device == "cpu" else (8192, 1 << 28)
        with mx.stream(self._unit):
            one, other = (mx.random.uniform(shape=(side, side)) for _ in range(2))
            source = mx.random.uniform(shape=(numbers,))
            mx.eval(one, other, source)
            return Ceilings(
                2.0 * side**3 / self._best(lambda: one @ other),
                2.0 * source.nbytes / self._best(lambda: -source),
            )

    def _best(self, call: Callable[[], mx.array]) -> float:
        """Seconds of the best of six calls after two to warm up."""
        spent = []
        for _ in range(8):
            begin = time.perf_counter()
            self.wait(call())
            spent.append(time.perf_counter() - begin)
        return min(spent[2:])

    def allocated(self) -> int:
        return int(mx.get_active_memory())

    def reset_peak(self) -> None:
        mx.reset_peak_memory()

    def peak(self) -> int:
        return int(mx.get_peak_memory())

    def release(self) -> None:
        gc.collect()
        mx.clear_cache()
