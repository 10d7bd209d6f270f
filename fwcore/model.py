"""A network from its spec: parameter table, forward pass and loss, once for all backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fwt.fwcore import layers
from fwt.fwcore.cells import cell_of
from fwt.fwcore.cells.base import FinalState, State, Weights
from fwt.fwcore.lookup import dense
from fwt.fwcore.memory import Plan, plan
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param
from fwt.fwcore.spec import ModelSpec


def parameters(spec: ModelSpec) -> list[Param]:
    """The parameter table: encoder, core, head."""
    inputs = layers.encoder_outputs(spec.encoder)
    return [
        *layers.encoder_parameters(spec.encoder),
        *cell_of(spec.core).parameters(spec.core, inputs),
        *layers.head_parameters(spec.head, spec.core.size),
    ]


def memory_plan(spec: ModelSpec, form: str, batch: int, steps: int) -> Plan:
    """The form that the core's fast memory takes for B sequences of T steps."""
    return plan(form, batch, steps, spec.core.size, spec.core.memory_reads)


@dataclass(frozen=True)
class Masks:
    """Dropout masks of a batch, already divided by the fraction kept; None drops nothing.

    Attributes:
        inputs: for the encoder's outputs, (B, I), the same at every time step.
        hidden: for the last hidden state, (B, R).
    """

    inputs: Array | None = None
    hidden: Array | None = None


# number of a step, its projected input, the state before and after it -> the state that goes on
Observer = Callable[[int, Array, State, State], State]
Project = Callable[..., Sequence[Array]]  # a cell's `project`, of its own spec
Step = Callable[..., State]  # a cell's `step`, of its own spec and state


class Unroll(Protocol):
    """The time loop of a core: `unroll`, or a backend's fused override of it."""

    def __call__(
        self,
        ops: Ops,
        spec: ModelSpec,
        p: Weights,
        x: Array,
        memory: Plan,
        given: Weights | None = None,
        first: int = 0,
    ) -> tuple[Sequence[Array], FinalState]:
        """The T outputs, each (B, R), and the final state."""
        ...


def advance(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Array,
    state: State,
    first: int = 0,
    *,
    project: Project | None = None,
    step: Step | None = None,
    observe: Observer | None = None,
) -> tuple[list[Array], State]:
    """The time loop, written once for all cells, for streams, traces and gradient flow.

    Args:
        x: the core's input, (B, T, I); symbols may come as `fwt.fwcore.lookup.LookedUp`.
        state: the state before the first step.
        first: number of the first time step.
        project, step: in place of the cell's own.
        observe: sees every step; its state goes on.

    Returns:
        The T outputs, each (B, R), and the final state.
    """
    cell = cell_of(spec.core)
    project, step = project or cell.project, step or cell.step
    outputs = []
    for t, z in enumerate(project(ops, spec.core, p, x, first), first):
        before, state = state, step(ops, spec.core, p, z, state, t)
        if observe is not None:
            state = observe(t, z, before, state)
        outputs.append(state.output)
    return outputs, state


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Array,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
    project: Project | None = None,
    step: Step | None = None,
) -> tuple[list[Array], State]:
    """All time steps of the core from its start state.

    Args:
        x, first, project, step: as for `advance`, which is the time loop.
        memory: the form of the fast memory.
        given: arrays of the start state by name; zeros where None or left out.

    Returns:
        The T outputs, each (B, R), and the final state.
    """
    state = cell_of(spec.core).start(ops, spec.core, p, x.shape[0], memory, given or {})
    return advance(ops, spec, p, x, state, first, project=project, step=step)


class Stream:
    """A core that is fed one time step at a time, from a state of zeros; A is kept as it is.

    Args:
        p: the parameters by canonical name; later changes of them may or may not be seen.
        batch: B, sequences side by side.
    """

    def __init__(self, ops: Ops, spec: ModelSpec, p: Weights, batch: int) -> None:
        self._ops, self._spec, self._p, self._t = ops, spec, p, 0
        chosen = memory_plan(spec, "matrix", batch, 1)
        self._state = cell_of(spec.core).start(ops, spec.core, p, batch, chosen, {})

    def step(self, x: Array) -> Array:
        """The output of the next time step: the core's input (B, I) -> (B, R)."""
        (output,), self._state = advance(
            self._ops, self._spec, self._p, x[:, None], self._state, self._t
        )
        self._t += 1
        return output

    def arrays(self) -> dict[str, Array]:
        """The state by name, as `fwt.fwcore.cells.base.State.arrays` gives it."""
        return self._state.arrays()


def logits(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    inputs: Array,
    masks: Masks,
    form: str,
    run: Unroll = unroll,
) -> Array:
    """Class scores of a batch: int (B, T) or (B, T, features) -> (B, classes).

    Args:
        masks: dropout masks of the batch.
        form: of the fast memory, one of `fwt.fwcore.memory.FORMS`.
        run: the time loop.
    """
    x = layers.encode(ops, spec.encoder, p, inputs)
    if masks.inputs is not None:
        x = dense(x) * masks.inputs[:, None, :]
    memory = memory_plan(spec, form, x.shape[0], x.shape[1])
    outputs, _ = run(ops, spec, p, x, memory)
    h = outputs[-1] if masks.hidden is None else outputs[-1] * masks.hidden
    return layers.classify(ops, spec.head, p, h)


def cross_entropy(ops: Ops, scores: Array, targets: Array) -> Array:
    """-log softmax(scores)[target] in nats for each example: (B, N), int (B,) -> (B,)."""
    return ops.logsumexp(scores) - ops.pick(scores, targets)
