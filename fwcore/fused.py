"""Which models a fused core covers, and what it is told of their time steps; for all backends.

A fused core is an override of the fast-weights cell: the whole time loop, forward and backward, in
one operator. The equations stay those of `fwt.fwcore.cells.fast_weights`; tests hold every output
and gradient against them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fwt.fwcore.cells import fast_weights
from fwt.fwcore.cells.base import CellSpec
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray


def uncovered(core: CellSpec) -> str | None:
    """Why fused cores cannot run a core, as a phrase for an error; None if they can."""
    if not isinstance(core, fast_weights.Spec):
        return f"the model {core.kind!r} has no fast memory"
    wanted = {"write": "final", "sustained": "boundary"}
    others = [f"{k}={getattr(core, k)!r}" for k, v in wanted.items() if getattr(core, k) != v]
    if core.norm not in ("sum", "none"):
        others.append(f"norm={core.norm!r}")
    return f"it has no {', '.join(others)}" if others else None


def choose(form: str, missing: str | None, backend: str) -> str:
    """The form of the fast memory to run: `auto` takes the fused core where there is one.

    Args:
        form: what was asked for, one of `fwt.fwcore.memory.FORMS`.
        missing: why there is no fused core for this model and device; None if there is one.
        backend: its name.

    Raises:
        ConfigError: `fused` was asked for, and there is none.
    """
    if form == "fused" and missing is not None:
        raise ConfigError(
            f"memory: expected a form that backend {backend} has for this model, got "
            f"memory='fused': {missing}; take --memory auto"
        )
    return "fused" if form == "auto" and missing is None else form


class Controls(NamedTuple):
    """What differs between time steps.

    Attributes:
        which: the slow weights a step uses, 0 for W and 1 for W_int, int64 (T,).
        stores: whether h is written into A after the step, bool (T,).
    """

    which: NumpyArray
    stores: NumpyArray


def controls(core: fast_weights.Spec, steps: int, first: int) -> Controls:
    """The controls of T time steps, the first of them number `first`."""
    times = np.arange(first, first + steps)
    stores = np.ones(steps, bool) if core.store is None else np.isin(times, core.store)
    return Controls(np.isin(times, core.integrate).astype(np.int64), stores)
