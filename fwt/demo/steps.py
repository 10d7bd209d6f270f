"""What the page shows of a network at each time step, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fwt.fwcore.analysis.compare import softmax
from fwt.fwcore.analysis.trace import Trace
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.tasks.base import Pictures, Reader
from fwt.tasks.mnist_glimpse import GlimpseReader

REFERENCE = "numpy"  # the backend that the others are held against: float64, and always there


class Traceable(Protocol):
    """What is asked of a compiled model."""

    def trace(self, inputs: NumpyArray) -> Trace: ...

    def describe(self, batch: int, steps: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Subject:
    """A checkpoint to be shown.

    Attributes:
        name: what it is called.
        spec: of its model.
        reader: of its task.
        on: its model on the backend of that name. Raises FwtError where it cannot be had.
        pairs: of the strings that it was trained on.
    """

    name: str
    spec: ModelSpec
    reader: Reader
    on: Callable[[str], Traceable]
    pairs: int = 0

    @property
    def drawn(self) -> bool:
        """Whether its examples are images, which can be drawn."""
        return isinstance(self.reader, GlimpseReader)


@dataclass(frozen=True)
class Frame:
    """One time step.

    Attributes:
        chances: softmax of the head applied to h(t), (classes,).
        state: h(t), (R,).
        looks: for each inner step, the attention (eq. 4) to each stored time step.
        matrix: A after the step, (R, R); None where nothing is stored.
    """

    chances: NumpyArray
    state: NumpyArray
    looks: tuple[Mapping[int, float], ...]
    matrix: NumpyArray | None


@dataclass(frozen=True)
class Story:
    """A forward pass of one example.

    Attributes:
        labels: a short name for each time step.
        classes: what can be answered.
        pictures: what the example shows; None for symbols.
        frames: its time steps.
        place: backend, device and number type that computed it.
        gap: the largest absolute difference of the class scores to those of `REFERENCE`.
    """

    labels: tuple[str, ...]
    classes: tuple[str, ...]
    pictures: Pictures | None
    frames: tuple[Frame, ...]
    place: tuple[str, str, str]
    gap: float

    @property
    def last(self) -> int:
        """The number of the last time step."""
        return len(self.frames) - 1

    @property
    def fast(self) -> bool:
        """Whether the network reads a fast memory."""
        return any(frame.looks for frame in self.frames)

    @property
    def scale(self) -> float:
        """The largest size of an entry of A at any time step; 0 without fast memory."""
        found = [frame.matrix for frame in self.frames if frame.matrix is not None]
        return max((float(np.abs(matrix).max()) for matrix in found), default=0.0)

    def answer(self, t: int) -> tuple[str, float]:
        """The most probable class at a time step, and its probability."""
        best = int(self.frames[t].chances.argmax())
        return self.classes[best], float(self.frames[t].chances[best])


def tell(subject: Subject, inputs: NumpyArray, backend: str) -> Story:
    """Run a network on one example and keep what it did.

    Args:
        subject: the network.
        inputs: the example, (T,) or (T, I).
        backend: name of the backend that computes.

    Raises:
        FwtError: the backend cannot be had.
    """
    model = subject.on(backend)
    traced, wanted = (one.trace(inputs[None]) for one in (model, subject.on(REFERENCE)))
    facts = model.describe(1, len(inputs))
    return Story(
        labels=subject.reader.labels(inputs),
        classes=subject.reader.classes,
        pictures=subject.reader.pictures(inputs),
        frames=tuple(
            Frame(
                softmax(step.scores)[0],
                step.output[0].astype(np.float64),
                tuple(
                    dict(zip(read.steps, map(float, read.weights[0]), strict=True))
                    for read in step.reads
                ),
                None if step.matrix is None else step.matrix[0].astype(np.float64),
            )
            for step in traced.steps
        ),
        place=(facts["backend"], facts["device"], facts["dtype"]),
        gap=float(np.abs(traced.scores.astype(np.float64) - wanted.scores).max()),
    )
