"""One model on several backends: how far logits, answers and gradients are apart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from fwcore.batches import Split
from fwcore.train import EVALUATION_BATCH

Array = np.ndarray[Any, np.dtype[Any]]

# Largest differences between two backends in float32 (NumPy in float64): of logits, as a part of
# the largest logit; of a gradient, as a part of the largest entry of that parameter's gradient.
LOGIT_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4


class Comparable(Protocol):
    """What is asked of a compiled model."""

    def forward(self, inputs: Array) -> Array:
        """See `backends.contract.Compiled`."""
        ...

    def gradients(self, inputs: Array, targets: Array) -> tuple[float, dict[str, Array]]:
        """See `backends.contract.Compiled`."""
        ...


def softmax(scores: Array) -> Array:
    """Probabilities of the classes in float64: (..., classes) -> (..., classes)."""
    shifted = scores.astype(np.float64) - scores.max(-1, keepdims=True)
    parts: Array = np.exp(shifted)
    return np.asarray(parts / parts.sum(-1, keepdims=True))


def logits_of(model: Comparable, split: Split) -> Array:
    """Class scores of a whole split, (N, classes)."""
    parts = [
        model.forward(split.inputs[first : first + EVALUATION_BATCH])
        for first in range(0, len(split), EVALUATION_BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def gradient_difference(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """The largest difference of any parameter's gradient, relative to its largest entry."""
    found = [0.0]
    for name, array in one.items():
        scale = max(float(np.abs(array).max()), float(np.abs(other[name]).max()), 1e-30)
        found.append(float(np.abs(array.astype(np.float64) - other[name]).max()) / scale)
    return float(np.max(found))  # NaN if any is, which no tolerance lets pass


def compare(
    models: Mapping[str, Comparable], split: Split, without_gradients: frozenset[str]
) -> list[dict[str, Any]]:
    """Every pair of backends on one split.

    Args:
        models: one model compiled by each backend, by the backend's name.
        split: all of it is used for logits, its first 128 examples for gradients.
        without_gradients: names of backends that have no autodiff.

    Returns:
        For each pair: `backends`, `logit_abs` (largest absolute difference), `logit_rel` (the
        same relative to the largest logit), `argmax_equal` (count) of `examples`,
        `gradient_rel` (None where a backend has no autodiff) and `ok`.
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
        gap = float(np.abs(scores[one] - scores[other]).max())
        largest = max(float(np.abs(scores[one]).max()), float(np.abs(scores[other]).max()), 1e-30)
        equal = int((scores[one].argmax(1) == scores[other].argmax(1)).sum())
        both = one in grads and other in grads
        slope = gradient_difference(grads[one], grads[other]) if both else None
        rows.append(
            {
                "backends": [one, other],
                "logit_abs": gap,
                "logit_rel": gap / largest,
                "argmax_equal": equal,
                "examples": len(split),
                "gradient_rel": slope,
                "ok": gap / largest <= LOGIT_TOLERANCE
                and equal == len(split)
                and (slope is None or slope <= GRADIENT_TOLERANCE),
            }
        )
    return rows
