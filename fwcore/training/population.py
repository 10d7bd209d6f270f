"""A population: models of one shape as one batched program, a leading axis P on every array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fwt.fwcore.cells import fast_weights
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import Array, NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.spec import ModelSpec

OWN = ("decay", "rate")  # fields of the fast-weights cell in which members may differ


class Holder(Protocol):
    """A population that gives and takes its members' weights by number."""

    def parameters(self, member: int) -> dict[str, NumpyArray]: ...

    def load_parameters(self, member: int, params: Mapping[str, NumpyArray]) -> None: ...

    def optimizer_state(self, member: int) -> dict[str, NumpyArray]: ...

    def load_optimizer_state(
        self, member: int, moments: Mapping[str, NumpyArray], step: int
    ) -> None: ...


@dataclass(frozen=True)
class Member:
    """One model of a population, as its run folder sees it."""

    population: Holder
    number: int

    def parameters(self) -> dict[str, NumpyArray]:
        return self.population.parameters(self.number)

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None:
        self.population.load_parameters(self.number, params)

    def optimizer_state(self) -> dict[str, NumpyArray]:
        return self.population.optimizer_state(self.number)

    def load_optimizer_state(self, moments: Mapping[str, NumpyArray], step: int) -> None:
        self.population.load_optimizer_state(self.number, moments, step)


def own_rates(specs: Sequence[ModelSpec], dtype: str) -> dict[str, NumpyArray]:
    """What `fast_weights.rates` is to find beside each member's parameters, float64 (P,).

    Raises:
        ConfigError: the members differ in more than fixed or first values of decay and rate, or
            in these while a number type would round them.
    """
    first = specs[0]
    for number, spec in enumerate(specs):
        same = {name: getattr(first.core, name) for name in OWN if hasattr(first.core, name)}
        core = spec.core.model_copy(update=same)
        if spec.model_copy(update={"core": core}) != first:
            raise ConfigError(
                f"population: expected members that differ in {' and '.join(OWN)} alone, got "
                f"member {number} with {spec.json_data()} beside {first.json_data()}"
            )
    if not isinstance(first.core, fast_weights.Spec) or first.core.trained:
        return {}
    values = {name: np.array([getattr(spec.core, name) for spec in specs]) for name in OWN}
    own = {f"core.{name}": array for name, array in values.items() if len(set(array)) > 1}
    if own and dtype == "bfloat16":
        raise ConfigError(
            f"population: expected one {' and one '.join(OWN)} for all members in bfloat16, which "
            f"rounds them, got several of {', '.join(own)}; take --dtype float32"
        )
    return own


class Rows:
    """Where parameters lie in an array (P, N) that holds those of each member as a row.

    One array for all makes an update of all members a handful of operations, with learning rates,
    norms and step counts as columns (P, 1).

    Args:
        table: the parameters of a member.
        shapes: their shapes as the framework has them.
    """

    def __init__(self, table: Sequence[Param], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {param.name: shapes[param.name] for param in table}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.decays = np.repeat([float(param.decays) for param in table], sizes)

    def columns(self) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
        """Name, columns and shape of each parameter."""
        first = 0
        for name, shape in self.shapes.items():
            last = first + math.prod(shape)
            yield name, slice(first, last), shape
            first = last

    def pack(self, arrays: Mapping[str, NumpyArray]) -> NumpyArray:
        """The row of a member, (N,)."""
        return np.concatenate([arrays[name].ravel() for name in self.shapes])

    def unpack(self, row: NumpyArray) -> dict[str, NumpyArray]:
        """The parameters in the row of a member; copies."""
        return {name: row[at].reshape(shape).copy() for name, at, shape in self.columns()}

    def split(self, rows: Array) -> dict[str, Array]:
        """The parameters of all members, each (P, ...), in an array of a framework (P, N)."""
        return {name: rows[:, at].reshape(-1, *shape) for name, at, shape in self.columns()}
