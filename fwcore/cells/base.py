"""What a cell is: the contract between one file of equations and the loop that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import pydantic
from pydantic import JsonValue

from fwt.fwcore.frozen import Frozen
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param

Weights = Mapping[str, Array]  # all of a model's parameters by canonical name
Presets = dict[str, dict[str, JsonValue]]  # model name -> fields of a core's spec
MOST = 10**15  # of a count: beyond any machine, and far from where arithmetic overflows
PositiveInt = Annotated[int, pydantic.Field(ge=1, le=MOST)]

KEPT_ARRAYS = 8  # of R numbers, that autodiff keeps of a plain cell's time step and inner step


class CellSpec(Frozen):
    """The base of a recurrent core's options.

    Attributes:
        kind: the cell's name.
        size: R, hidden units (count).
        pictures: whether a time step is a square picture to the cell, which therefore takes the
            task's numbers as they are (the encoder `identity`).
        levels: whether its memory follows the levels of a task, by `store`, `wipe`, `integrate`.
        weighs_steps: whether it has weights for each time step, whose number is its `steps`.

    `pictures`, `levels` and `weighs_steps` are no options: they are the same for a kind.
    """

    pictures: ClassVar[bool] = False
    levels: ClassVar[bool] = False
    weighs_steps: ClassVar[bool] = False

    kind: str
    size: PositiveInt

    @property
    def memory_reads(self) -> int:
        """How often a time step reads the fast memory; 0 for a cell that has none."""
        return 0

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of the state by name, as `State.arrays` has them, without the axis B."""
        return {"h": (self.size,)}

    def kept(self, inputs: int) -> int:
        """Numbers of a sequence's time step that autodiff keeps, without I and the fast memory.

        An estimate within a factor of about two; I numbers enter the cell.
        """
        return KEPT_ARRAYS * (1 + self.memory_reads) * self.size


class FinalState(Protocol):
    """What a core is left with after its last time step."""

    def arrays(self) -> dict[str, Array]:
        """Every array of the state by name, for tests, inspection and `Cell.start`."""
        ...


class State(FinalState, Protocol):
    """A cell's state between two time steps: the hidden state and whatever else it carries."""

    @property
    def h(self) -> Array:
        """Hidden state as the next step finds it, (B, R)."""
        ...

    @property
    def output(self) -> Array:
        """Hidden state as the head sees it, (B, R); differs from `h` only after a wipe."""
        ...


@runtime_checkable
class Recurrent(State, Protocol):
    """The state of a cell whose time steps pass a hidden state on."""

    def shift(self, delta: Array) -> Recurrent:
        """The state if h(t), wherever it has gone, were larger by delta (B, R)."""
        ...


class Cell(Protocol):
    """A module of `fwt.fwcore.cells`: its functions and two constants, found by file name.

    Every `spec` is a `Spec` of this module, and every `state` comes from its `start` or `step`.
    """

    Spec: type[CellSpec]
    # model names on the command line -> spec fields that make them, `kind` left out
    PRESETS: Presets

    def parameters(self, spec: CellSpec, inputs: int) -> list[Param]:
        """The parameter table for I inputs; names begin with `core.`."""
        ...

    def project(
        self, ops: Ops, spec: CellSpec, p: Weights, x: Array, first: int
    ) -> Sequence[Array]:
        """The slow input of all T steps in one product: (B, T, I) -> T arrays (B, ...).

        x may be a `fwt.fwcore.lookup.LookedUp`, which knows `@` and `shape`; `dense` gives an
        array. `first` is the number of the first of these time steps.
        """
        ...

    def start(
        self, ops: Ops, spec: CellSpec, p: Weights, batch: int, memory: Plan, given: Weights
    ) -> State:
        """The state before the first step: explicit zeros, or the arrays `given` by name."""
        ...

    def step(self, ops: Ops, spec: CellSpec, p: Weights, z: Array, state: State, t: int) -> State:
        """The cell's equations: projected input z (B, ...) and state -> the next state.

        `t` counts time steps from 0.
        """
        ...
