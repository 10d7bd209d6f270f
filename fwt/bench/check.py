"""The equivalence check: no number is shown of a subject that computes something else.

The reference is our own cell in float64 in matrix form by plain PyTorch operations on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fwt import backends
from fwt.backends.contract import Compiled
from fwt.bench.shapes import Shape, batch_of, spec_of, weights_of
from fwt.bench.subjects import Framework, Subject, kind_of
from fwt.fwcore.analysis.compare import GRADIENT_TOLERANCE, LOGIT_TOLERANCE, gradient_difference
from fwt.fwcore.errors import CheckFailed
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec

# The tolerances are those of `fwt verify`: largest difference as a part of the largest number,
# float32 against float64, what rounding becomes in T steps of the recurrence (3e-6 and 6e-6 were
# measured at T = 1000). Losses and outputs are held to that of logits, norms to that of gradients.
TOLERANCES = {"outputs": LOGIT_TOLERANCE, "gradients": GRADIENT_TOLERANCE}

REFERENCE_BYTES = 384 * 2**20  # matrices A of the reference; larger shapes are checked in part
STREAMED = 25  # time steps


class Answers(NamedTuple):
    """What the reference finds on a batch, in float64."""

    logits: NumpyArray
    loss: float
    gradients: Mapping[str, NumpyArray]


def checked_shape(shape: Shape) -> Shape:
    """The shape at which the check runs: B reduced (not below 2), then T, until it is small.

    The reference keeps three matrices of R x R float64 a time step and sequence.
    """
    step = 3 * 8 * shape.size**2
    batch = max(min(shape.batch, 2), min(shape.batch, REFERENCE_BYTES // (step * shape.steps)))
    steps = max(1, min(shape.steps, REFERENCE_BYTES // (step * batch)))
    return shape._replace(batch=batch, steps=steps)


def _model(spec: ModelSpec) -> Compiled:
    """The reference model. `matrix` is asked for by name, so no fused kernel computes it."""
    form = "matrix" if spec.core.kind == "fast-weights" else "auto"
    return backends.load("torch").compile(
        spec, weights_of(spec), device="cpu", dtype="float64", memory=form
    )


@lru_cache(maxsize=4)
def reference(kind: str, shape: Shape) -> Answers:
    """Class scores, mean loss and every gradient of a kind of core."""
    spec, data = spec_of(kind, shape), batch_of(shape)
    model = _model(spec)
    loss, found = model.gradients(data.inputs, data.targets)
    return Answers(model.forward(data.inputs), loss, found)


def check(framework: Framework, name: str, shape: Shape) -> dict[str, float]:
    """Hold a subject against the reference, at `checked_shape(shape)`.

    Outputs, the loss of the very step that is timed, its gradient norm where it gives one, and
    every gradient (of a framework's own layers the gradients are the framework's affair).

    Returns:
        The relative differences found.

    Raises:
        CheckFailed: one of them is out of tolerance, or a number is not finite.
    """
    part = checked_shape(shape)
    kind = kind_of(name)
    spec, data, want = spec_of(kind, part), batch_of(part), reference(kind, part)
    subject = framework.subject(name, spec, weights_of(spec), data)
    gaps = _gaps(framework, subject, want)
    framework.release()
    _hold(gaps)
    return gaps


def _gaps(framework: Framework, subject: Subject, want: Answers) -> dict[str, float]:
    logits, gradients = framework.numpy(subject.forward()), subject.gradients()
    gaps = {"outputs": apart(want.logits, logits)}
    if gradients:
        # `gradient_difference` skips what is not a number
        bad = any(not np.isfinite(found).all() for found in gradients.values())
        gaps["gradients"] = float("nan") if bad else gradient_difference(want.gradients, gradients)
    loss, norm = subject.statistics(subject.train())
    gaps["loss of the step"] = apart(np.asarray(want.loss), np.asarray(loss))
    if norm is not None:
        total = sum(float((found**2).sum()) for found in want.gradients.values())
        gaps["gradient norm of the step"] = apart(np.asarray(total**0.5), np.asarray(norm))
    return gaps


def check_stream(framework: Framework, name: str, shape: Shape) -> dict[str, float]:
    """Hold the outputs of `STREAMED` single steps of one sequence against the reference.

    Raises:
        CheckFailed: they are out of tolerance.
    """
    spec = spec_of(kind_of(name), shape)
    x = Stream(0, "bench", "stream").uniform((1, STREAMED, shape.size), -1.0, 1.0)
    model = _model(spec)
    streamer = framework.streamer(name, spec, weights_of(spec))
    single = x.astype(np.float32)
    want = model.states(single)[0]
    got = [framework.numpy(streamer.step(framework.native(single[:, t]))) for t in range(STREAMED)]
    gaps = {"outputs": apart(want, np.stack(got, 1))}
    _hold(gaps)
    return gaps


def apart(want: NumpyArray, got: NumpyArray) -> float:
    """The largest difference as a part of the largest number; NaN if one is not finite."""
    if want.shape != got.shape:
        raise CheckFailed(f"expected an array of shape {want.shape}, got shape={got.shape}")
    if not np.isfinite(got).all():
        return float("nan")
    scale = max(float(np.abs(want).max()), float(np.abs(got).max()), 1e-30)
    return float(np.abs(got.astype(np.float64) - want).max()) / scale


def _hold(gaps: Mapping[str, float]) -> None:
    for what, gap in gaps.items():
        bound = TOLERANCES["gradients" if what.startswith("gradient") else "outputs"]
        if not gap <= bound:  # NaN is refused too
            raise CheckFailed(f"{what} {gap:.1e} apart, allowed {bound:g}")
