"""Parameter tables: every weight's name, shape, axes and first value, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.ops import OWN, NumpyArray
from fwt.fwcore.rng import Stream
from fwt.fwcore.storage.dtypes import type_name

Initialiser = Callable[[Stream, tuple[int, ...]], NumpyArray]


def uniform(bound: float) -> Initialiser:
    """Uniform in [-bound, bound)."""
    return lambda stream, shape: stream.uniform(shape, -bound, bound)


def constant(value: float) -> Initialiser:
    """The same number everywhere."""
    return lambda stream, shape: np.full(shape, value)


def identity(scale: float) -> Initialiser:
    """Scale * I, for square shapes."""
    return lambda stream, shape: scale * np.eye(shape[0], shape[1])


@dataclass(frozen=True)
class Param:
    """One trained array.

    Attributes:
        name: canonical dotted name, e.g. `core.w`; the same in files and on every backend.
        shape: canonical shape.
        axes: one letter an axis, in canonical order: O output, I input, H and W of a
            convolution's kernel, U a unit, T a time step; "" for a single number. A backend that
            keeps another order permutes by these letters, never by looking at a shape.
        init: the first value, from the stream keyed (seed, "weights", name).
    """

    name: str
    shape: tuple[int, ...]
    axes: str
    init: Initialiser

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices and kernels, not to biases, gains, scalars."""
        return len(self.shape) >= 2


def linear(name: str, inputs: int, outputs: int) -> list[Param]:
    """`name.weight` (O, I) and `name.bias` (O), both uniform in +-1/sqrt(inputs)."""
    bound = inputs**-0.5
    return [
        Param(f"{name}.weight", (outputs, inputs), "OI", uniform(bound)),
        Param(f"{name}.bias", (outputs,), "O", uniform(bound)),
    ]


def layer_norm(name: str, size: int) -> list[Param]:
    """`name.weight` = 1 and `name.bias` = 0: the learned gain and bias of a layer norm."""
    return [
        Param(f"{name}.weight", (size,), "U", constant(1.0)),
        Param(f"{name}.bias", (size,), "U", constant(0.0)),
    ]


def initialise(
    table: Sequence[Param], seed: int, dtype: DTypeLike = np.float32
) -> dict[str, NumpyArray]:
    """First values of all parameters, a pure function of (table, seed).

    Each array has its own random stream, so adding a parameter leaves the others as they were.
    """
    return {
        param.name: param.init(Stream(seed, "weights", param.name), param.shape).astype(dtype)
        for param in table
    }


def count(table: Sequence[Param]) -> int:
    """How many numbers the table holds."""
    return sum(math.prod(param.shape) for param in table)


def not_finite(arrays: Mapping[str, NumpyArray]) -> list[str]:
    """The names of the arrays that hold a NaN or an infinity."""
    return [name for name, array in arrays.items() if not np.isfinite(array).all()]


def mismatches(table: Sequence[Param], arrays: Mapping[str, NumpyArray]) -> list[str]:
    """Every difference between a table and named arrays, one phrase each; [] if they fit."""
    known = {param.name: param for param in table}
    faults = [f"missing {name!r}" for name in known if name not in arrays]
    faults += [f"extra {name!r}" for name in arrays if name not in known]
    for name, param in known.items():
        if name not in arrays:
            continue
        got = arrays[name]
        if not isinstance(got, np.ndarray):
            faults.append(f"{name!r} is of type {type(got).__name__}, expected a NumPy array")
        elif got.shape != param.shape:
            turned = got.shape == param.shape[::-1] or sorted(got.shape) == sorted(param.shape)
            hint = " (transposed?)" if turned and len(param.shape) > 1 else ""
            faults.append(f"{name!r} has shape {got.shape}, expected {param.shape}{hint}")
        elif got.dtype not in (np.float32, np.float64):
            faults.append(f"{name!r} has type {type_name(got.dtype)}, expected float32 or float64")
        elif not np.isfinite(got).all():
            faults.append(f"{name!r} holds numbers that are not finite")
    return faults


def check_fit(
    table: Sequence[Param], arrays: Mapping[str, NumpyArray], where: str
) -> dict[str, NumpyArray]:
    """Arrays that are exactly those of a parameter table, contiguous.

    Raises:
        CheckpointError: naming every missing, extra, mis-shaped or mis-typed array.
    """
    faults = mismatches(table, arrays)
    if faults:
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(faults)}")
    return {name: np.require(array, requirements=OWN) for name, array in arrays.items()}


def as_parameters(
    table: Sequence[Param], arrays: Mapping[str, NumpyArray], dtype: str
) -> dict[str, NumpyArray]:
    """Arrays that fit a table, in the type in which weights are kept for a number type.

    Raises:
        CheckpointError: they do not fit.
    """
    check_fit(table, arrays, "compile")
    kind = np.float64 if dtype == "float64" else np.float32
    return {param.name: arrays[param.name].astype(kind) for param in table}
