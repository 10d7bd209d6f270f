"""Loss and error of models on a split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fwt.fwcore.errors import ConfigError, DivergedError
from fwt.fwcore.training.batches import Split
from fwt.fwcore.training.lockstep import Alone, Lockstep, Trainable

EVALUATION_BATCH = 1000  # examples at once; bounds memory, does not change the result


def measure(model: Trainable, split: Split) -> dict[str, float]:
    """Mean loss (nats), error (percent) and size of a split.

    Raises:
        ConfigError: the split is empty.
        DivergedError: the loss is not finite.
    """
    (result,) = measure_all(Alone(model), split)
    if not np.isfinite(result["loss"]):
        raise DivergedError(
            f"evaluate: expected a finite loss, got loss={result['loss']}; these weights overflow "
            "on these examples; take a checkpoint of an earlier step"
        )
    return result


def measure_all(
    models: Lockstep, split: Split, before_batch: Callable[[], None] = lambda: None
) -> list[dict[str, float]]:
    """What `measure` gives, of each model, finite or not; `before_batch` may end it by raising."""
    count, members = len(split), len(models.members)
    if not count:
        raise ConfigError("evaluate: expected at least one example, got examples=0")
    sums, batch = np.zeros((members, 2)), max(1, EVALUATION_BATCH // members)
    for first in range(0, count, batch):
        before_batch()
        rows = slice(first, first + batch)
        # NumPy would warn of each product that overflows; the loss is then no number, which is told
        with np.errstate(over="ignore", invalid="ignore"):
            sums += models.evaluate(split.inputs[rows], split.targets[rows])
    return [
        {"loss": loss / count, "error_pct": 100 * wrong / count, "examples": count}
        for loss, wrong in sums.tolist()
    ]
