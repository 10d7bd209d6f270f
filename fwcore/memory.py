"""The fast memory A(t) = decay A(t-1) + rate h h^T, in forms of one value and different cost.

`matrix` keeps A as it is written (eq. 1). `attention` keeps the past hidden states and reads them
by eq. 4, so that no R x R matrix is ever built. `chunked` keeps A up to the last chunk border and
the states since then. Source: Ba et al. 2016 (arXiv 1610.06258), equations 1 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.ops import Array, Ops

PLAIN_FORMS = ("matrix", "attention", "chunked")  # run from the equations on every backend
FORMS = ("auto", "fused", *PLAIN_FORMS)  # `fused`: a backend's override of the whole core

# Multiply-adds that take as long as moving one byte. Any value between 2 and 20, which spans
# the CPUs and GPUs of today, puts the borders between the forms at nearly the same T / R.
OPERATIONS_PER_BYTE = 8.0


@dataclass(frozen=True)
class Plan:
    """Which form a memory takes, and what it costs.

    Attributes:
        form: `matrix`, `attention`, `chunked` or `fused`.
        chunk: time steps between two chunk borders (`chunked` and `fused` only, else 0).
        operations: multiply-adds of all reads and writes of a batch, forward.
        bytes: bytes of memory states kept for the backward pass of a batch, in float32.
    """

    form: str
    chunk: int
    operations: float
    bytes: float


def _candidates(batch: int, steps: int, size: int, inner: int) -> dict[str, Plan]:
    """Cost of each form for B sequences of T steps, R units and S inner steps."""
    square, reads = size * size, max(inner, 1)
    chunk = max(2, min(steps, round(math.sqrt(2 * size / reads))))
    borders = steps / chunk
    fused_chunk = chunk_of_fused(steps, size)
    costs = {
        "fused": (
            fused_chunk,
            (1 + reads) * steps * square + reads * steps * fused_chunk * size,
            (3 + reads) * steps * size + (steps - 1) // fused_chunk * square,
        ),
        "matrix": (0, (2 + reads) * steps * square, 3 * steps * square),
        "attention": (0, reads * steps * steps * size, steps * steps * size / 2),
        "chunked": (
            chunk,
            (1 + reads) * steps * square + reads * steps * chunk * size,
            2 * borders * square + steps * chunk * size / 2,
        ),
    }
    return {
        form: Plan(form, length, float(batch * operations), 4.0 * batch * numbers)
        for form, (length, operations, numbers) in costs.items()
    }


def chunk_of_fused(steps: int, size: int) -> int:
    """Time steps between the borders of a fused core: all of them while attention is cheaper.

    Per time step, forward and backward, attention over the whole past costs about 3 T R products
    and chunks of R / 2 steps 7.5 R^2, but these in fewer passes: measured, they meet near T = 1.6 R
    on MLX and near 2 R on torch. Borders R / 2 steps apart hold 2 T R numbers a sequence, twice
    what h does.
    """
    return steps if steps <= 1.6 * size else min(steps, max(size // 2, 16))


def check_sizes(batch: int, steps: int) -> None:
    """Refuse what has no answer: B = 0 has no mean loss, T = 0 no last hidden state.

    Raises:
        ConfigError: there is no sequence, or no time step.
    """
    if batch < 1 or steps < 1:
        raise ConfigError(
            "inputs: expected at least one sequence of at least one time step, "
            f"got batch={batch}, steps={steps}; leave out what is empty"
        )


def plan(form: str, batch: int, steps: int, size: int, inner: int) -> Plan:
    """The form to use for B sequences of T steps, R units and S inner steps.

    Args:
        form: one of `FORMS`; `auto` takes the plain form whose operations plus memory traffic are
            least.

    Raises:
        ConfigError: for an unknown form, for no sequence, or for sequences of no time step.
    """
    if form not in FORMS:
        raise ConfigError(f"memory: unknown form {form!r} ({nearest(form, FORMS)})")
    check_sizes(batch, steps)
    candidates = _candidates(batch, steps, size, inner)
    if form != "auto":
        return candidates[form]
    return min(
        (candidates[form] for form in PLAIN_FORMS),
        key=lambda cost: cost.operations + OPERATIONS_PER_BYTE * cost.bytes,
    )


@dataclass(frozen=True)
class Rates:
    """decay (lambda) and rate (eta), as fixed numbers or as trained arrays of shape ().

    `log_decay` is the logarithm of a decay that is trained, whose own may be 0 or 1 in its type.
    """

    ops: Ops
    decay: float | Array
    rate: float | Array
    log_decay: Array | None = None

    def weights(self, ages: Sequence[int]) -> Array:
        """Rate * decay**age for each age, shape (len(ages),): the lambda^(t-tau) of eq. 4."""
        if isinstance(self.decay, float) and isinstance(self.rate, float):
            return self.ops.constant(self.rate * self.decay ** np.asarray(ages, dtype=np.float64))
        return self.rate * self.power(ages)

    def power(self, ages: int | Sequence[int]) -> Array:
        """decay**age, of the shape of `ages`."""
        exponents = np.asarray(ages, dtype=np.float64)
        if isinstance(self.decay, float):
            return self.ops.constant(self.decay**exponents)
        log_decay = self.ops.log(self.decay) if self.log_decay is None else self.log_decay
        return self.ops.exp(log_decay * self.ops.constant(exponents))


class Memory(Protocol):
    """What a cell asks of its fast memory. Memories are values: writing gives a new one."""

    def read(self, query: Array) -> Array | float:
        """A(t) query, (B, R) -> (B, R); the number 0.0 while nothing is stored."""
        ...

    def write(self, h: Array) -> Memory:
        """One time step on: A(t) = decay A(t-1) + rate h h^T, h (B, R)."""
        ...

    def skip(self) -> Memory:
        """One time step on without a write: A(t) = decay A(t-1)."""
        ...

    def matrix(self) -> Array | None:
        """A(t), (B, R, R), whatever the form; None while nothing is stored."""
        ...


def _outer(h: Array) -> Array:
    """H h^T for each sequence: (B, R) -> (B, R, R)."""
    return h[:, :, None] * h[:, None, :]


def _row_read(query: Array, matrix: Array) -> Array:
    """A query as query^T A, equal because A is symmetric, and faster on every backend."""
    return (query[:, None, :] @ matrix)[:, 0]


@dataclass(frozen=True)
class MatrixMemory:
    """Eq. 1 as it is written: one R x R matrix a sequence."""

    rates: Rates
    fast: Array | None = None

    def read(self, query: Array) -> Array | float:
        return 0.0 if self.fast is None else _row_read(query, self.fast)

    def write(self, h: Array) -> MatrixMemory:
        new = self.rates.rate * _outer(h)
        return replace(self, fast=new if self.fast is None else self.rates.decay * self.fast + new)

    def skip(self) -> MatrixMemory:
        return self if self.fast is None else replace(self, fast=self.rates.decay * self.fast)

    def matrix(self) -> Array | None:
        return self.fast


@dataclass(frozen=True)
class HistoryMemory:
    """Eq. 4: past states, read by attention; from `chunk` states on they are folded into a matrix.

    Attributes:
        border: A at the last chunk border, (B, R, R); None while all of the past is in `states`.
        states: stored hidden states since the border, each (B, R).
        ages: time steps since each state was stored.
        border_age: time steps since the border.
        chunk: fold once this many states are held; 0 never folds.
    """

    rates: Rates
    chunk: int = 0
    border: Array | None = None
    border_age: int = 0
    states: tuple[Array, ...] = ()
    ages: tuple[int, ...] = ()
    _stacked: list[Array] = field(default_factory=list, compare=False)

    def _history(self) -> Array:
        """The stored states as one array (B, n, R), joined once for all reads of a time step."""
        if not self._stacked:
            self._stacked.append(self.rates.ops.stack(self.states, 1))
        return self._stacked[0]

    def read(self, query: Array) -> Array | float:
        result: Array | float = 0.0
        if self.border is not None:
            result = self.rates.power(self.border_age) * _row_read(query, self.border)
        if self.states:
            history = self._history()
            scores = query[:, None, :] @ self.rates.ops.swapaxes(history, 1, 2)
            result = ((scores * self.rates.weights(self.ages)) @ history)[:, 0] + result
        return result

    def skip(self) -> HistoryMemory:
        ages = tuple(age + 1 for age in self.ages)
        return replace(self, ages=ages, border_age=self.border_age + 1)

    def write(self, h: Array) -> HistoryMemory:
        older = self.skip()
        new = replace(older, states=(*older.states, h), ages=(*older.ages, 0), _stacked=[])
        if not self.chunk or len(new.states) < self.chunk:
            return new
        return HistoryMemory(self.rates, self.chunk, border=new.matrix())

    def shift(self, delta: Array) -> HistoryMemory:
        """The memory if the last state written were larger by delta (B, R)."""
        *older, last = self.states
        return replace(self, states=(*older, last + delta), _stacked=[])

    def matrix(self) -> Array | None:
        result = None
        if self.border is not None:
            result = self.rates.power(self.border_age) * self.border
        if self.states:
            history = self._history()
            weighted = history * self.rates.weights(self.ages)[:, None]
            recent = self.rates.ops.swapaxes(history, 1, 2) @ weighted
            result = recent if result is None else result + recent
        return result


def start(rates: Rates, chosen: Plan, fast: Array | None = None) -> Memory:
    """A memory in the chosen form, empty or holding the matrix `fast` (B, R, R)."""
    if chosen.form == "matrix":
        return MatrixMemory(rates, fast)
    return HistoryMemory(rates, chunk=chosen.chunk, border=fast)
