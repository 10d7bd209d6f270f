"""Whether the kernels hold the equations on the device they are to run on, asked once a process.

Their authors had no GPU. So before a model gets them, small models of every variant they cover are
run by the kernels and by `model.unroll`, on that device: outputs, final state and every gradient.
What does not agree, or cannot be compiled or launched, is why there is no fused core there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from fwt.backends.mlx.kernels.fused import kernel, unrolled
from fwt.backends.mlx.ops import MlxOps
from fwt.fwcore import model
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import initialise
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec

# The largest difference, as a part of the largest number of an array (or of FLOOR). Rounding alone,
# in float32 and passed through the recurrence, stays below a fifth of it.
TOLERANCE, FLOOR = 2e-4, 1e-2
INPUTS = 3
SIZE = 5  # of the models that every device is asked about; R of a model is asked for besides


class Trial(NamedTuple):
    """A small model and its data.

    Attributes:
        norm, inner: of the core, as S.
        plan: its `store`, `wipe` and `integrate`.
        batch, steps, chunk: B, T, and time steps between two borders.
        given: whether it starts from a state instead of zeros.
    """

    norm: str
    inner: int
    plan: Mapping[str, Any]
    batch: int
    steps: int
    chunk: int
    given: bool = False

    def spec(self, size: int) -> ModelSpec:
        """Its model with R = `size`; without a norm only a small rate keeps numbers finite."""
        core = {
            "kind": "fast-weights",
            "size": size,
            "norm": self.norm,
            "inner_steps": self.inner,
            "decay": 0.9,
            "rate": 0.5 if self.norm == "sum" else 1.0 / size,
            "trained": True,
            **self.plan,
        }
        encoder = {"kind": "identity", "features": INPUTS}
        head = {"hidden": 0, "classes": 2}
        return ModelSpec.parse({"encoder": encoder, "core": core, "head": head}, "fused check")


LEVELS = {"store": (0, 2, 3, 5), "wipe": True, "integrate": (1, 4)}
GATED = {"store": (0, 2, 3, 6)}
FIRST = (
    Trial("sum", 1, {}, 2, 7, 7),
    Trial("sum", 1, {}, 1, 1, 1),
    Trial("sum", 1, {}, 1, kernel.WIDTH + 5, kernel.WIDTH + 5),  # more states than threads
    Trial("none", 3, {"wipe": True}, 2, 5, 2),
    Trial("sum", 0, {"integrate": (0, 3)}, 2, 5, 5),
    Trial("none", 0, {}, 2, 3, 3, given=True),
)
EVERY = (  # for every R, which is compiled in
    Trial("sum", 3, LEVELS, 1, 7, 3, given=True),
    Trial("none", 1, GATED, 2, 7, 7),
)


class KernelWarning(UserWarning):
    """The fused kernels cannot be used on a device, and `auto` takes another form."""


_HELD: set[tuple[int, kernel.Runner, mx.DeviceType]] = set()


def held(size: int, run: kernel.Runner, device: mx.DeviceType) -> bool:
    """Whether `failure` was asked about this R and found nothing; asks nothing by itself."""
    return (size, run, device) in _HELD


@cache
def failure(size: int | None, run: kernel.Runner, device: mx.DeviceType) -> str | None:
    """Why the kernels are not to be used on a device, as a phrase; None if they held.

    A failure is also a `KernelWarning`.

    Args:
        size: R; None asks about the device alone.
        run: what runs them.
    """
    if size is not None:
        general = failure(None, run, device)  # pyright: ignore[reportArgumentType]
        if general is not None:
            return general
        if size > kernel.LARGEST:
            return f"its kernels hold at most {kernel.LARGEST} units, and size={size}"
    trials, units = (FIRST + EVERY, SIZE) if size is None else (EVERY, size)
    reason = None
    for trial in trials:
        reason = reason or _fault(trial, units, run, device)
    if reason is None:
        _HELD.add((units, run, device))
    else:
        warnings.warn(KernelWarning(f"backend mlx: no fused core: {reason}"), stacklevel=2)
    return reason


def _fault(trial: Trial, size: int, run: kernel.Runner, device: mx.DeviceType) -> str | None:
    """What is wrong with the kernels in a trial, as a phrase."""
    spec, kind = trial.spec(size), mx.float32
    place = f"S={trial.inner} T={trial.steps} R={size} norm={trial.norm}"
    with mx.stream(device):
        ops = MlxOps(kind)
        wanted = _numbers(model.unroll, Plan("matrix", 0, 0.0, 0.0), ops, spec, trial)
        loop = partial(kernel.time_loop, run=run)
        fused = partial(unrolled.unroll, loop)
        try:
            got = _numbers(fused, Plan("fused", trial.chunk, 0.0, 0.0), ops, spec, trial)
        except (RuntimeError, ValueError, TypeError) as error:  # what MLX raises, which has no own
            lines = " ".join(str(error).split())
            return f"its kernels do not run on this device ({place}): {lines[:300]}"
    for name, want in wanted.items():
        scale = max(float(np.abs(want).max()), FLOOR)
        gap = float(np.abs(got[name] - want).max()) / scale
        if not gap <= TOLERANCE:  # NaN is a fault too
            return (
                f"its kernels do not hold the equations on this device ({place}): "
                f"{name} is off by {gap:.1e} of its largest number, allowed {TOLERANCE:.0e}"
            )
    return None


def _noise(name: str, shape: tuple[int, ...], low: float = -1.0) -> NumpyArray:
    return Stream(0, "fused check", name).uniform(shape, low, 1.0)


def _given(trial: Trial, size: int) -> dict[str, NumpyArray]:
    """An h that a ReLU can give and a symmetric A."""
    if not trial.given:
        return {}
    half = 0.1 * _noise("A", (trial.batch, size, size))
    return {"h": _noise("h", (trial.batch, size), 0.0), "A": half + half.transpose(0, 2, 1)}


def _numbers(
    unroll: Callable[..., Any], plan: Plan, ops: MlxOps, spec: ModelSpec, trial: Trial
) -> dict[str, NumpyArray]:
    """Outputs and final state of a core, and the gradients of a weighted sum of them."""
    size = spec.core.size
    table = [param for param in model.parameters(spec) if param.name.startswith("core.")]
    spread = 0.5 / np.sqrt(size)
    weights = {
        name: ops.constant(array + spread * _noise(name, array.shape))
        for name, array in initialise(table, 0, np.float64).items()
    }
    x = ops.constant(_noise("x", (trial.batch, trial.steps, INPUTS)))
    start = {name: ops.constant(array) for name, array in _given(trial, size).items()}

    def measure(p: Any, x: mx.array, start: Any) -> tuple[mx.array, dict[str, mx.array]]:
        outputs, state = unroll(ops, spec, p, x, plan, start)
        found = {"outputs": mx.stack(list(outputs)), **state.arrays()}
        factors = {name: ops.constant(_noise(name, array.shape)) for name, array in found.items()}
        return sum((mx.sum(found[n] * factors[n]) for n in found), ops.zeros(())), found

    (_, states), slopes = mx.value_and_grad(measure, argnums=(0, 1, 2))(weights, x, start)
    gradients = {**slopes[0], "x": slopes[1], **{f"given {n}": a for n, a in slopes[2].items()}}
    everything = {**states, **{f"the gradient of {name}": a for name, a in gradients.items()}}
    return {name: np.array(array) for name, array in everything.items()}
