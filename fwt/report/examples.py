"""A network on a split: which classes it takes for which, and the examples it is worst at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fwt.fwcore.analysis.compare import logits_of, softmax
from fwt.fwcore.analysis.trace import Trace, facts_of
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training.batches import Split
from fwt.tasks.base import Reader


class Network(Protocol):
    """What is asked of a compiled model."""

    def forward(self, inputs: NumpyArray) -> NumpyArray: ...

    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]: ...

    def trace(self, inputs: NumpyArray) -> Trace: ...


@dataclass(frozen=True)
class Seen:
    """An example that was looked at.

    Attributes:
        facts: plain data, see `judged`.
        inputs: (T,) or (T, I).
        labels: what each time step is called.
        trace: the network's.
    """

    facts: dict[str, Any]
    inputs: NumpyArray
    labels: tuple[str, ...]
    trace: Trace


@dataclass(frozen=True)
class Judged:
    """A network on a split.

    Attributes:
        facts: plain data, see `judged`.
        seen: its hardest examples, the hardest first.
    """

    facts: dict[str, Any]
    seen: tuple[Seen, ...]


def judged(network: Network, reader: Reader, split: Split, most: int) -> Judged:
    """A network's answers to a split.

    Args:
        network: a compiled model.
        reader: what the task makes of an example.
        split: its N examples.
        most: how many of those with the highest loss are looked at.

    Returns:
        With the facts: `examples`, `wrong` (count), `error_pct`, `loss` (mean, nats), `classes`,
        `confusion` (classes, classes): how often an example of the row's class was given the
        column's, and `hardest`. Of each of these: `number` in the split, `text` (of symbols),
        `target`, `answer`, `loss`, `probabilities` of answer and target, and `steps` as
        `fwt inspect` has them.
    """
    scores, count = logits_of(network, split), len(reader.classes)
    answers, chances = scores.argmax(1), softmax(scores)
    losses = -np.log(np.maximum(chances[np.arange(len(split)), split.targets], 1e-300))
    confusion = np.bincount(split.targets * count + answers, minlength=count * count)
    wrong = int((answers != split.targets).sum())
    hardest = np.argsort(-losses, kind="stable")[:most].tolist()
    seen = tuple(
        _seen(network, reader, split, number, chances[number], float(losses[number]))
        for number in hardest
    )
    facts = {
        "examples": len(split),
        "wrong": wrong,
        "error_pct": 100 * wrong / len(split),
        "loss": float(losses.mean()),
        "classes": list(reader.classes),
        "confusion": confusion.reshape(count, count).tolist(),
        "hardest": [each.facts for each in seen],
    }
    return Judged(facts, seen)


def _seen(
    network: Network, reader: Reader, split: Split, number: int, chances: NumpyArray, loss: float
) -> Seen:
    """One example, looked into."""
    inputs = split.inputs[number]
    target, answer = int(split.targets[number]), int(chances.argmax())
    labels = reader.labels(inputs)
    traced = network.trace(inputs[None])
    facts = {
        "number": number,
        "text": "".join(labels) if reader.pictures(inputs) is None else None,
        "target": reader.classes[target],
        "answer": reader.classes[answer],
        "loss": loss,
        "probabilities": {"answer": float(chances[answer]), "target": float(chances[target])},
        "steps": facts_of(traced, labels),
    }
    return Seen(facts, inputs, labels, traced)
