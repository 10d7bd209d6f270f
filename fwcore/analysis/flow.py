"""How gradients flow through time: a network whose hidden states can be changed from outside.

Adding delta(tau) to h(tau), wherever h(tau) goes, makes dE/dh(tau) the gradient of E for delta(tau)
at 0, by any backend's own autodiff. For fast weights h(tau) goes on to the next step, to the head
and into A. The analysis is that of Wayman & Mathew 2017 (after Hochreiter 1991 and Bengio, Simard,
Frasconi 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fwt.fwcore import layers
from fwt.fwcore.analysis.compare import softmax
from fwt.fwcore.cells import cell_of
from fwt.fwcore.cells.base import Recurrent, State, Weights
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.model import advance, memory_plan
from fwt.fwcore.ops import Array, NumpyArray, Ops
from fwt.fwcore.spec import ModelSpec

COPIES = 2000  # of an example, at once: bounds the memory of a backward pass


class Differentiable(Protocol):
    """What is asked of a compiled model."""

    spec: ModelSpec

    def forward(self, inputs: NumpyArray) -> NumpyArray: ...

    def hidden_gradients(
        self, inputs: NumpyArray, outputs: NumpyArray, scores: NumpyArray
    ) -> NumpyArray: ...


def perturb(
    ops: Ops, spec: ModelSpec, p: Weights, inputs: Array, deltas: Sequence[Array]
) -> tuple[list[Array], Array]:
    """The forward pass with deltas[t] added to h(t), each (B, R).

    Args:
        p: the parameters by canonical name.
        inputs: int (B, T) or (B, T, features).
        deltas: T arrays.

    Returns:
        The T outputs, each (B, R), and the class scores.

    Raises:
        ConfigError: the core is not recurrent.
    """
    core = spec.core
    x = layers.encode(ops, spec.encoder, p, inputs)
    chosen = memory_plan(spec, "attention", x.shape[0], x.shape[1])
    state = cell_of(core).start(ops, core, p, x.shape[0], chosen, {})

    def add_delta(t: int, _z: Array, _before: State, after: State) -> State:
        if not isinstance(after, Recurrent):
            raise ConfigError(
                f"gradients: the model {core.kind!r} is not recurrent, so that no gradient flows "
                "through its time steps"
            )
        return after.shift(deltas[t])

    outputs, _ = advance(ops, spec, p, x, state, observe=add_delta)
    return outputs, layers.classify(ops, spec.head, p, outputs[-1])


def loss_gradients(network: Differentiable, inputs: NumpyArray, targets: NumpyArray) -> NumpyArray:
    """dE/dh(tau) of every example, E its cross-entropy in nats: (T, B, R).

    Args:
        network: the model on a backend.
        inputs: int (B, T) or (B, T, features).
        targets: int (B,).
    """
    chances = softmax(network.forward(inputs))
    chances[np.arange(len(targets)), targets] -= 1.0  # dE/d(class scores)
    batch, steps = inputs.shape[:2]
    return network.hidden_gradients(
        inputs, np.zeros((steps, batch, network.spec.core.size)), chances
    )


def jacobians(network: Differentiable, example: NumpyArray, to: Sequence[int]) -> NumpyArray:
    """dh(to)/dh(t) of one example, by every way from one to the other: (T, len(to), R, R).

    The example is repeated R times for each of `to`, and of copy i output i is pulled back, so that
    one backward pass gives all rows of all of them. Steps from `to` on are 0 or the identity.

    Args:
        network: the model on a backend.
        example: (T,) or (T, features).
        to: time steps.
    """
    size, steps = network.spec.core.size, len(example)
    copies = np.repeat(example[None], len(to) * size, axis=0)
    outputs = np.zeros((steps, len(to), size, size))
    for place, t in enumerate(to):
        outputs[t, place] = np.eye(size)
    scores = np.zeros((len(copies), network.spec.head.classes))
    found = network.hidden_gradients(copies, outputs.reshape(steps, len(copies), size), scores)
    return np.asarray(found.reshape(outputs.shape))


@dataclass(frozen=True)
class Flow:
    """Mean norms over examples.

    Attributes:
        loss: |dE/dh(tau)| for each of the T time steps, E in nats.
        jacobians: the spectral norm of dh(t+1)/dh(t) for t = 0..T-2, by every way.
        reach: the spectral norm of dh(T-1)/dh(t) for t = 0..T-2.
    """

    loss: NumpyArray
    jacobians: NumpyArray
    reach: NumpyArray


def flow(network: Differentiable, inputs: NumpyArray, targets: NumpyArray, looked_at: int) -> Flow:
    """How much of the past a network's gradients see.

    Args:
        network: the model on a backend.
        inputs: int (B, T) or (B, T, features).
        targets: int (B,).
        looked_at: how many of the examples the Jacobians are taken of.
    """
    found = loss_gradients(network, inputs, targets).astype(np.float64)
    norms = np.array([_jacobian_norms(network, example) for example in inputs[:looked_at]])
    near, far = norms.mean(0)
    return Flow(np.linalg.norm(found, axis=-1).mean(1), near, far)


def _jacobian_norms(network: Differentiable, example: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Spectral norms of dh(t+1)/dh(t) and of dh(T-1)/dh(t), each (T - 1,)."""
    last = len(example) - 1
    near, far = np.zeros(last), np.zeros(last)
    together = max(1, COPIES // network.spec.core.size)
    for first in range(1, last + 1, together):
        to = range(first, min(first + together, last + 1))
        found = jacobians(network, example, to)
        for place, t in enumerate(to):
            near[t - 1] = np.linalg.norm(found[t - 1, place], 2)
        if to[-1] == last:
            far[:] = np.linalg.norm(found[:last, -1], 2, axis=(-2, -1))
    return near, far
