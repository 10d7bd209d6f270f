"""What is measured: shapes (B, T, R, S), the network around a core, its weights and its batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import initialise
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.training.batches import Split

CLASSES = 10
SPREAD = 0.5  # of the noise on the core's first weights, in units of 1/sqrt(R)

# Weights hardly move, so that the thousandth step computes with numbers like those of the first:
# a batch that was learned by heart has gradients so small that CPUs slow down on them.
TRAIN = TrainSpec(lr=1e-6, steps=1)


class Shape(NamedTuple):
    """B sequences of T steps, I = R inputs and R hidden units, S inner steps."""

    batch: int
    steps: int
    size: int
    inner: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


GRID = (
    Shape(128, 11, 20, 1),
    Shape(128, 11, 50, 1),
    Shape(128, 11, 100, 1),
    Shape(128, 24, 50, 1),
    Shape(128, 24, 200, 1),
    Shape(128, 100, 50, 1),
    Shape(32, 1000, 64, 1),
    Shape(1024, 100, 128, 1),
    Shape(128, 11, 50, 3),
)


def parse(text: str) -> Shape:
    """A shape from `B,T,R,S`.

    Raises:
        ConfigError: it is not four whole numbers, B, T and R from 1, S from 0.
    """
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    if len(parts) != 4 or len(numbers) != 4 or min(numbers[:3]) < 1:
        raise ConfigError(
            f"--shape: expected B,T,R,S as whole numbers (B, T, R from 1, S from 0), "
            f"got shape={text!r}; e.g. 128,11,50,1"
        )
    return Shape(*numbers)


def spec_of(kind: str, shape: Shape) -> ModelSpec:
    """A core of a kind on the numbers that go in, and one linear layer to the classes."""
    core: dict[str, Any] = {"kind": kind, "size": shape.size}
    if kind == "fast-weights":
        core["inner_steps"] = shape.inner
    encoder = {"kind": "identity", "features": shape.size}
    head = {"hidden": 0, "classes": CLASSES}
    return ModelSpec.parse({"encoder": encoder, "core": core, "head": head}, "bench")


def weights_of(spec: ModelSpec) -> dict[str, NumpyArray]:
    """The first weights of seed 0, those of the core with noise, by canonical name.

    Without it W is 0.05 I and the gains are equal: a core that takes W for its transpose would
    pass the check.
    """
    found = initialise(model.parameters(spec), 0)
    bound = SPREAD * spec.core.size**-0.5
    for name, array in found.items():
        if name.startswith("core."):
            noise = Stream(0, "bench", name).uniform(array.shape, -bound, bound)
            found[name] = (array + noise).astype(np.float32)
    return found


def batch_of(shape: Shape) -> Split:
    """B random sequences in [-1, 1) and random classes: inputs (B, T, R), targets (B,)."""
    size = (shape.batch, shape.steps, shape.size)
    inputs = Stream(0, "bench", "inputs").uniform(size, -1.0, 1.0).astype(np.float32)
    return Split(inputs, Stream(0, "bench", "targets").integers(CLASSES, (shape.batch,)))
