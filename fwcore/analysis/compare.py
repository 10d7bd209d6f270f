"""One model on several backends: how far logits, answers and gradients are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream
from fwt.fwcore.training.batches import Split
from fwt.fwcore.training.evaluation import EVALUATION_BATCH

# Largest differences between two backends in float32 (NumPy in float64): of logits, as a part of
# the largest logit; of a gradient, as a part of the largest entry of that parameter's gradient.
LOGIT_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4

# Where a network is ill-conditioned, this many times what rounding its weights alone changes, in
# the worst of so many draws. A draw rounds the weights, a pass rounds every number on the way: in
# 9 trained networks, on the examples where backends were farthest apart, they were at most 6 times
# as far apart as the draws; weights in float16 were, in the median example, 860 to 2,600 times.
ROUNDING_FACTOR = 32
ROUNDING_DRAWS = 8


class Scorer(Protocol):
    """A network that gives class scores."""

    def forward(self, inputs: NumpyArray) -> NumpyArray: ...


class Comparable(Scorer, Protocol):
    """What is asked of a compiled model."""

    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]: ...

    def load_parameters(self, params: Mapping[str, NumpyArray]) -> None: ...


@dataclass(frozen=True)
class Conditioning:
    """How far a network's logits and gradients move when its weights are rounded.

    Each weight goes up or down, by a seeded draw, by the most that rounding to `dtype` can move
    it: half a unit in the last place of its binade. The network itself is computed in float64.

    Args:
        params: the weights, canonical arrays by name.
        dtype: the type that the backends compute in, float32 or float64.
        forward: the network in float64, for logits.
        differentiable: the network in float64 on a backend with autodiff, for gradients.
    """

    params: Mapping[str, NumpyArray]
    dtype: str
    forward: Comparable
    differentiable: Comparable

    def logits(self, inputs: NumpyArray) -> NumpyArray:
        """The farthest that any logit of an example moves: (B, ...) -> (B,), in float64."""
        exact, *rounded = (m.forward(inputs) for m in self._rounded(self.forward))
        moves = [np.abs(scores - exact).max(1) for scores in rounded]
        return np.asarray(np.max(moves, axis=0))

    def gradients(self, inputs: NumpyArray, targets: NumpyArray) -> float:
        """The most that the gradients of a batch differ, as `gradient_difference` measures it."""
        exact, *rounded = (
            m.gradients(inputs, targets)[1] for m in self._rounded(self.differentiable)
        )
        return float(np.max([gradient_difference(exact, other) for other in rounded]))

    def _rounded(self, network: Comparable) -> Iterator[Comparable]:
        """The network with its own weights, then with those of each draw."""
        unit = np.finfo(self.dtype).eps / 2
        exact = {name: array.astype(np.float64) for name, array in self.params.items()}
        network.load_parameters(exact)
        yield network
        for draw in range(ROUNDING_DRAWS):
            moved = {}
            for name, array in exact.items():
                signs = Stream(0, "rounding", draw, name).integers(2, array.shape) * 2.0 - 1.0
                moved[name] = array * (1.0 + unit * signs)
            network.load_parameters(moved)
            yield network


def softmax(scores: NumpyArray) -> NumpyArray:
    """Probabilities of the classes in float64: (..., classes) -> (..., classes)."""
    shifted = scores.astype(np.float64) - scores.max(-1, keepdims=True)
    parts: NumpyArray = np.exp(shifted)
    return np.asarray(parts / parts.sum(-1, keepdims=True))


def logits_of(model: Scorer, split: Split) -> NumpyArray:
    """Class scores of a whole split, (N, classes)."""
    parts = [
        model.forward(split.inputs[first : first + EVALUATION_BATCH])
        for first in range(0, len(split), EVALUATION_BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def gradient_difference(one: Mapping[str, NumpyArray], other: Mapping[str, NumpyArray]) -> float:
    """The largest difference of any parameter's gradient, relative to its largest entry."""
    found = [0.0]
    for name, array in one.items():
        scale = max(float(np.abs(array).max()), float(np.abs(other[name]).max()), 1e-30)
        found.append(float(np.abs(array.astype(np.float64) - other[name]).max()) / scale)
    return float(np.max(found))  # NaN if any is, which no tolerance lets pass


def compare(
    models: Mapping[str, Comparable],
    split: Split,
    without_gradients: frozenset[str],
    conditioning: Conditioning,
) -> list[dict[str, Any]]:
    """Every pair of backends on one split.

    An example's logits may differ by `LOGIT_TOLERANCE` of the split's largest logit; by more only
    where rounding the weights alone moves them so far: by `ROUNDING_FACTOR` times that. Gradients
    are held to `GRADIENT_TOLERANCE` in the same way.

    Args:
        models: one model compiled by each backend, by the backend's name.
        split: all of it is used for logits, its first 128 examples for gradients.
        without_gradients: names of backends that have no autodiff.
        conditioning: what rounding does to the model, asked for where a tolerance is exceeded.

    Returns:
        For each pair: `backends`, `logit_abs` (largest absolute difference), `logit_rel` (the
        same relative to the largest logit), `logit_bound` (the widest that an example was held
        to, so too), `ill_conditioned` (count of examples that were held to more than the
        tolerance), `argmax_equal` (count) of `examples`, `gradient_rel` and `gradient_bound`
        (None where a backend has no autodiff) and `ok`. Once an example is out of its bound, the
        counts of the pair end there.
    """
    scores = {name: logits_of(model, split) for name, model in models.items()}
    head = (split.inputs[:128], split.targets[:128])
    grads = {
        name: model.gradients(*head)[1]
        for name, model in models.items()
        if name not in without_gradients
    }
    rows = []
    for one, other in combinations(models, 2):
        gaps = np.abs(scores[one] - scores[other]).max(1)
        largest = max(float(np.abs(scores[one]).max()), float(np.abs(scores[other]).max()), 1e-30)
        bounds = _bounds(gaps, LOGIT_TOLERANCE * largest, split.inputs, conditioning)
        both = one in grads and other in grads
        slope = gradient_difference(grads[one], grads[other]) if both else None
        slope_bound = None if slope is None else GRADIENT_TOLERANCE
        if slope is not None and not slope <= GRADIENT_TOLERANCE:
            slope_bound = max(GRADIENT_TOLERANCE, ROUNDING_FACTOR * conditioning.gradients(*head))
        rows.append(
            {
                "backends": [one, other],
                "logit_abs": float(gaps.max()),
                "logit_rel": float(gaps.max()) / largest,
                "logit_bound": float(bounds.max()) / largest,
                "ill_conditioned": int((bounds > bounds.min()).sum()),
                "argmax_equal": int((scores[one].argmax(1) == scores[other].argmax(1)).sum()),
                "examples": len(split),
                "gradient_rel": slope,
                "gradient_bound": slope_bound,
                "ok": bool((gaps <= bounds).all())
                and (slope is None or slope_bound is None or slope <= slope_bound),
            }
        )
    return rows


def _bounds(
    gaps: NumpyArray, tolerance: float, inputs: NumpyArray, conditioning: Conditioning
) -> NumpyArray:
    """How far each example's logits may be apart, (N,), the examples farthest apart first."""
    bounds = np.full(len(gaps), tolerance)
    beyond = np.flatnonzero(~(gaps <= tolerance))
    beyond = beyond[np.argsort(-gaps[beyond], kind="stable")]
    for first in range(0, len(beyond), EVALUATION_BATCH):
        rows = beyond[first : first + EVALUATION_BATCH]
        moved = ROUNDING_FACTOR * conditioning.logits(inputs[rows])
        bounds[rows] = np.fmax(tolerance, moved)  # no number widens nothing
        if not (gaps[rows] <= bounds[rows]).all():
            break
    return bounds
