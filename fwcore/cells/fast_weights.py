"""The fast-weights cell: a recurrent network whose per-sequence memory A attends to the past.

    A(t)         = decay A(t-1) + rate h(t) h(t)^T                       (1)
    h_0(t+1)     = f(W h(t) + C x(t))                                     (2)
    h_{s+1}(t+1) = f(LN[W h(t) + C x(t) + A(t) h_s(t+1)]), s = 0..S-1     (3)
    h(t+1)       = h_S(t+1)

Source: Ba, Hinton, Mnih, Leibo, Ionescu 2016 (arXiv 1610.06258), sections 3 and 4.2; f is ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pydantic

from fwt.fwcore import memory as memories
from fwt.fwcore.cells.base import CellSpec, Presets, Weights
from fwt.fwcore.cells.common import normalise
from fwt.fwcore.frozen import Items
from fwt.fwcore.lookup import dense
from fwt.fwcore.memory import HistoryMemory, Memory, Plan, Rates
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param, constant, identity, layer_norm, uniform

# of a trained decay, whose logarithm is taken; 1 + it is 1 in every number type
LEAST_DECAY = 1e-30

NO_BATCH_NORM = (
    "mean and deviation over the batch, as jiamings/fast-weights and Victorwz/fast-weights-pytorch "
    "take them, make an answer depend on the other examples, and divide by 0 for a batch of one; "
    "take sum"
)

Step = Annotated[int, pydantic.Field(ge=0)]


class Spec(CellSpec):
    """Options of the fast-weights cell; the defaults are the paper's.

    Attributes:
        decay: lambda, what is left of A after a time step, in (0, 1].
        rate: eta, how strongly a state is written, > 0.
        inner_steps: S, reads of A within a time step, at most 1000; 0 reads nothing and leaves the
            layer-normalised IRNN: h = f(LN[W h + C x]).
        norm: where layer normalisation acts: `sum` on the whole bracket (eq. 3); `none`; `slow`
            on b + W h + C x alone, as printed by Wayman & Mathew 2017 (reads may then blow up);
            `both` on the bracket and, with a gain and a bias of its own, on W h + C x in eq. 2, as
            github.com/jxwufan/AssociativeRetrieval and github.com/waymane1/fast-weights-rnn do.
        write: `final` stores h(t) after the step (eq. 1); `preliminary` stores h_0(t) before the
            reads of the same step, as several public implementations do.
        sustained: `boundary` keeps W h + C x in every inner step (eq. 3); `identity` adds the
            identity matrix to A instead and lets the state sustain itself; `preliminary` keeps
            W h_0 + C x, as github.com/GokuMohandas/fast-weights, github.com/jiamings/fast-weights
            and github.com/Victorwz/fast-weights-pytorch do.
        bias: whether b, of zeros at first, is added to C x, as GokuMohandas/fast-weights does;
            norm `slow` has it always.
        trained: whether decay and rate are learned, from their values here.
        init_scale: W starts as this times the identity.
        store: time steps after which h is written into A; None writes after every step.
        wipe: whether h is set to zero after each write (multi-level memory).
        integrate: time steps that use their own slow weights W_int, C_int (multi-level memory).
    """

    omit_default: ClassVar[frozenset[str]] = frozenset({"bias"})
    levels: ClassVar[bool] = True

    kind: Literal["fast-weights"] = "fast-weights"
    decay: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.95
    rate: Annotated[float, pydantic.Field(gt=0)] = 0.5
    inner_steps: Annotated[int, pydantic.Field(ge=0, le=1000)] = 1
    norm: Literal["sum", "none", "slow", "both"] = "sum"
    write: Literal["final", "preliminary"] = "final"
    sustained: Literal["boundary", "identity", "preliminary"] = "boundary"
    bias: bool = False
    trained: bool = False
    init_scale: float = 0.05
    store: Items[Step] | None = None
    wipe: bool = False
    integrate: Items[Step] = ()

    @property
    def memory_reads(self) -> int:
        """S."""
        return self.inner_steps

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """`h` and the fast memory `A`."""
        return {"h": (self.size,), "A": (self.size, self.size)}

    @pydantic.field_validator("norm", mode="before")
    @classmethod
    def _of_one_example(cls, norm: object) -> object:
        if norm == "batch":
            raise ValueError(NO_BATCH_NORM)
        return norm

    @pydantic.model_validator(mode="after")
    def _learnable(self) -> Self:
        if self.trained and self.decay == 1:
            raise ValueError(
                "a trained decay is the sigmoid of a number and cannot start at 1; "
                "give decay < 1 or trained = false"
            )
        return self


PRESETS: Presets = {"fast-weights": {}}


def has_bias(spec: Spec) -> bool:
    """Whether there is b, `core.bias` (R,)."""
    return spec.bias or spec.norm == "slow"


def parameters(spec: Spec, inputs: int) -> list[Param]:
    """W (R, R) = 0.05 I, C (R, I) uniform in +-1/sqrt(R), layer norm, and what the options add."""
    size = spec.size
    table = [
        Param("core.w", (size, size), "OI", identity(spec.init_scale)),
        Param("core.c", (size, inputs), "OI", uniform(size**-0.5)),
    ]
    if spec.integrate:
        table += [
            Param("core.w_int", (size, size), "OI", identity(spec.init_scale)),
            Param("core.c_int", (size, inputs), "OI", uniform(size**-0.5)),
        ]
    if has_bias(spec):
        table.append(Param("core.bias", (size,), "U", constant(0.0)))
    if spec.norm == "both":
        table += layer_norm("core.norm_0", size)
    if spec.norm != "none" and not (spec.norm == "both" and spec.inner_steps == 0):
        table += layer_norm("core.norm", size)
    if spec.trained:
        table += [
            Param(
                "core.decay_logit", (), "", constant(float(np.log(spec.decay / (1 - spec.decay))))
            ),
            Param("core.log_rate", (), "", constant(float(np.log(spec.rate)))),
        ]
    return table


class FastState(NamedTuple):
    """Hidden state, the state before a wipe, and the fast memory.

    `wiped` says whether the hidden state was set to zero, `written` whether the state before that
    is the last one in memory.
    """

    h: Array
    output: Array
    memory: Memory
    wiped: bool = False
    written: bool = False

    def shift(self, delta: Array) -> FastState:
        """For a memory in the attention form."""
        memory = self.memory
        if self.written:
            assert isinstance(memory, HistoryMemory)  # noqa: S101 `fwt.fwcore.analysis.flow` asked for it
            memory = memory.shift(delta)
        h = self.h if self.wiped else self.h + delta
        return self._replace(h=h, output=self.output + delta, memory=memory)

    def arrays(self) -> dict[str, Array]:
        """`h` (B, R) and, once something is stored, `A` (B, R, R)."""
        fast = self.memory.matrix()
        return {"h": self.h} if fast is None else {"h": self.h, "A": fast}


def slow_input(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Array:
    """C x(t) for all steps, C_int x(t) at the steps that integrate, + b where there is one.

    (B, T, I) -> (B, T, R).
    """
    projected = x @ p["core.c"].T
    places = [t - first for t in spec.integrate if first <= t < first + x.shape[1]]
    if places:
        steps, inputs = ops.unbind(projected, 1), ops.unbind(dense(x), 1)
        merged = ops.stack([inputs[place] for place in places], 1) @ p["core.c_int"].T
        for place, z in zip(places, ops.unbind(merged, 1), strict=True):
            steps[place] = z
        projected = ops.stack(steps, 1)
    return projected + p["core.bias"] if has_bias(spec) else projected


def project(ops: Ops, spec: Spec, p: Weights, x: Array, first: int) -> Sequence[Array]:
    """`slow_input` step by step: T arrays (B, R)."""
    return ops.unbind(slow_input(ops, spec, p, x, first), 1)


def rates(ops: Ops, spec: Spec, p: Weights) -> Rates:
    """Decay and rate: fixed, or trained as the sigmoid and the exponential of a parameter.

    Members of a population with fixed numbers of their own bring them beside their parameters, as
    `core.decay` and `core.rate` of shape ().
    """
    if spec.trained:
        logit = p["core.decay_logit"]
        # log(sigmoid(x)) = -log(1 + exp(-x)), a number also where sigmoid(x) is rounded to 0
        log_decay = -ops.logsumexp(ops.stack([0.0 * logit, -logit], -1))
        decay = LEAST_DECAY + ops.relu(ops.sigmoid(logit) - LEAST_DECAY)
        return Rates(ops, decay, ops.exp(p["core.log_rate"]), log_decay)
    return Rates(ops, p.get("core.decay", spec.decay), p.get("core.rate", spec.rate))


def start(ops: Ops, spec: Spec, p: Weights, batch: int, memory: Plan, given: Weights) -> FastState:
    """h(0) = 0 and A(0) = 0, or the arrays `given` as `h` and `A`."""
    h = given["h"] if "h" in given else ops.zeros((batch, spec.size))
    return FastState(h, h, memories.start(rates(ops, spec, p), memory, given.get("A")))


def transition(ops: Ops, spec: Spec, p: Weights, z: Array, h: Array, t: int) -> Array:
    """W h + C x of one time step from z = C x and h, both (B, R); normalised for norm `slow`."""
    slow = z + h @ p["core.w_int" if t in spec.integrate else "core.w"].T
    return normalise(ops, p, "core.norm", slow) if spec.norm == "slow" else slow


def step(ops: Ops, spec: Spec, p: Weights, z: Array, state: FastState, t: int) -> FastState:
    """Equations 2, 3 and 1 in this order, with the variants of `Spec`."""
    slow = transition(ops, spec, p, z, state.h, t)
    h = ops.relu(normalise(ops, p, "core.norm_0", slow) if spec.norm == "both" else slow)  # eq. 2
    stores = spec.store is None or t in spec.store
    memory = state.memory
    if spec.write == "preliminary":
        memory = memory.write(h) if stores else memory.skip()
    if spec.sustained == "preliminary" and spec.inner_steps:
        slow = transition(ops, spec, p, z, h, t)
    for _ in range(spec.inner_steps):
        bracket = memory.read(h) + (h if spec.sustained == "identity" else slow)
        h = ops.relu(
            normalise(ops, p, "core.norm", bracket) if spec.norm in ("sum", "both") else bracket
        )  # eq. 3
    if spec.inner_steps == 0 and spec.norm == "sum":
        h = ops.relu(normalise(ops, p, "core.norm", slow))
    if spec.write == "final":
        memory = memory.write(h) if stores else memory.skip()  # eq. 1
    wiped = ops.zeros(tuple(h.shape)) if spec.wipe and stores else h
    return FastState(wiped, h, memory, spec.wipe and stores, spec.write == "final" and stores)
