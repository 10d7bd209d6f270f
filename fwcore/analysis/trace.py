"""A forward pass that keeps what it did: states, slow input, and every read of the fast memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fwt.fwcore import layers
from fwt.fwcore.cells import cell_of, fast_weights
from fwt.fwcore.cells.base import State, Weights
from fwt.fwcore.memory import HistoryMemory
from fwt.fwcore.model import advance, memory_plan
from fwt.fwcore.ops import Array, NumpyArray, Ops
from fwt.fwcore.spec import ModelSpec

ToNumpy = Callable[[Array], NumpyArray]


@dataclass(frozen=True)
class Read:
    """One inner step's read of the fast memory, for B sequences.

    Attributes:
        result: A(t) h_s, (B, R).
        steps: the n time steps whose states are stored.
        weights: attention to them, eta lambda^(t-tau) h(tau).h_s (eq. 4), (B, n).
    """

    result: NumpyArray
    steps: tuple[int, ...]
    weights: NumpyArray


@dataclass(frozen=True)
class Step:
    """One time step, for B sequences.

    Attributes:
        slow: W h + C x, (B, R); None for a core without fast memory.
        reads: its S reads in order; one that finds nothing stored has no steps.
        output: h(t) before a wipe, (B, R).
        matrix: A after the step, (B, R, R); None while nothing is stored, or without fast memory.
        scores: the head applied to h(t), (B, classes): the network's answer if it ended here.
    """

    slow: NumpyArray | None
    reads: tuple[Read, ...]
    output: NumpyArray
    matrix: NumpyArray | None
    scores: NumpyArray


@dataclass(frozen=True)
class Trace:
    """A batch's forward pass.

    Attributes:
        steps: its T time steps.
        scores: class scores (B, classes).
    """

    steps: tuple[Step, ...]
    scores: NumpyArray


# what a read gave, the time steps that are stored, and the attention to them
_Noted = tuple[Array | float, tuple[int, ...], Array | None]


@dataclass(frozen=True)
class _Watched:
    """A fast memory in the attention form that notes its reads."""

    inner: HistoryMemory
    now: int
    stored: tuple[int, ...]
    reads: list[_Noted]

    def read(self, query: Array) -> Array | float:
        result = self.inner.read(query)
        weights = None
        if self.stored:
            ops = self.inner.rates.ops
            history = ops.stack(self.inner.states, 1)
            scores = (query[:, None, :] @ ops.swapaxes(history, 1, 2))[:, 0]
            weights = scores * self.inner.rates.weights(self.inner.ages)
        self.reads.append((result, self.stored, weights))
        return result

    def write(self, h: Array) -> _Watched:
        stored = (*self.stored, self.now)
        return replace(self, inner=self.inner.write(h), now=self.now + 1, stored=stored)

    def skip(self) -> _Watched:
        return replace(self, inner=self.inner.skip(), now=self.now + 1)

    def matrix(self) -> Array | None:
        return self.inner.matrix()


def trace(ops: Ops, spec: ModelSpec, p: Weights, inputs: Array, numpy: ToNumpy) -> Trace:
    """The forward pass of `fwt.fwcore.model.logits` in the attention form, step by step.

    Args:
        p: the parameters by canonical name.
        inputs: int (B, T) or (B, T, features).
        numpy: an array of the backend as NumPy.
    """
    core = spec.core
    x = layers.encode(ops, spec.encoder, p, inputs)
    chosen = memory_plan(spec, "attention", x.shape[0], x.shape[1])
    state = cell_of(core).start(ops, core, p, x.shape[0], chosen, {})
    fast = core if isinstance(core, fast_weights.Spec) else None
    reads: list[_Noted] = []
    if isinstance(state, fast_weights.FastState):
        assert isinstance(state.memory, HistoryMemory)  # noqa: S101 that is the attention form
        state = state._replace(memory=_Watched(state.memory, 0, (), reads))
    steps: list[Step] = []

    def observe(t: int, z: Array, before: State, after: State) -> State:
        slow = None if fast is None else fast_weights.transition(ops, fast, p, z, before.h, t)
        matrix = after.memory.matrix() if isinstance(after, fast_weights.FastState) else None
        steps.append(
            Step(
                None if slow is None else numpy(slow),
                tuple(_as_read(numpy, after.output, *read) for read in reads),
                numpy(after.output),
                None if matrix is None else numpy(matrix),
                numpy(layers.classify(ops, spec.head, p, after.output)),
            )
        )
        reads.clear()
        return after

    advance(ops, spec, p, x, state, observe=observe)
    return Trace(tuple(steps), steps[-1].scores)


def _as_read(
    numpy: ToNumpy, like: Array, result: Array | float, stored: tuple[int, ...], weights: Array
) -> Read:
    batch, size = like.shape
    if weights is None:
        return Read(np.zeros((batch, size)), (), np.zeros((batch, 0)))
    return Read(numpy(result), stored, numpy(weights))


def effective_rank(matrix: NumpyArray) -> float:
    """Exp of the entropy of the eigenvalues' shares: 1 for one direction, R for all alike.

    Roy & Vetterli 2007, definition 1, for a symmetric matrix (R, R) without negative eigenvalues,
    as A is; 0 for a matrix of zeros.
    """
    values = spectrum(matrix)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spectrum(matrix: NumpyArray) -> NumpyArray:
    """The eigenvalues of a symmetric matrix (R, R), largest first; rounding below zero is cut."""
    values = np.linalg.eigvalsh(matrix.astype(np.float64))[::-1]
    return np.maximum(values, 0.0)


def facts_of(found: Trace, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The time steps of the first sequence as JSON data.

    Args:
        found: the trace.
        labels: what each time step is called, T of them.

    Returns:
        For each step its number and `input`, the norms of h and of W h + C x, `reads` with the norm
        and the attention (step -> weight) of each, and effective rank and eigenvalues of A; None
        for what is not there.
    """
    return [_facts(t, step, labels[t]) for t, step in enumerate(found.steps)]


def _facts(t: int, step: Step, label: str) -> dict[str, Any]:
    matrix = None if step.matrix is None else step.matrix[0]
    return {
        "step": t,
        "input": label,
        "norm_h": _norm(step.output),
        "norm_slow": None if step.slow is None else _norm(step.slow),
        "reads": [_read_facts(read) for read in step.reads],
        "effective_rank": None if matrix is None else effective_rank(matrix),
        "eigenvalues": None if matrix is None else [float(v) for v in spectrum(matrix)],
    }


def _read_facts(read: Read) -> dict[str, Any]:
    return {
        "norm": _norm(read.result),
        "attention": {str(t): float(w) for t, w in zip(read.steps, read.weights[0], strict=True)},
    }


def _norm(array: NumpyArray) -> float:
    """The Euclidean norm of a batch's first row."""
    return float(np.linalg.norm(array[0].astype(np.float64)))
