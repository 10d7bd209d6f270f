"""The least that a step must compute and move, by formula, and the time this takes at best.

A multiply-add counts as two operations, a number is 4 bytes (float32). I = R inputs, N classes, P
parameters. Where all of a step's numbers stay in a cache, the bytes cost less than this floor says.
"""

from __future__ import annotations

from typing import NamedTuple

from fwt.bench.shapes import CLASSES, Shape, spec_of
from fwt.fwcore import model, params

NUMBER = 4  # bytes
ADAM = 12  # operations a parameter
ADAM_TRAFFIC = 10  # numbers a parameter: w read twice, gradient and moments and w read and written

# kind -> rows of the slow weights in units of R; pointwise operations and numbers kept for the
# backward pass, a unit and time step (fast weights: also for every inner step)
GATES = {"fast-weights": 1, "lstm": 4, "gru": 3}
POINTWISE = {"fast-weights": 10, "lstm": 30, "gru": 25}
KEPT = {"fast-weights": 1, "lstm": 6, "gru": 5}


class Work(NamedTuple):
    """Operations, and bytes moved to or from memory."""

    operations: float
    bytes: float


class Ceilings(NamedTuple):
    """What a device reached in a large matrix product and a large copy.

    Attributes:
        operations: a second.
        bandwidth: bytes a second, read and written.
    """

    operations: float
    bandwidth: float


class Floor(NamedTuple):
    """The least time of a step, and what it is spent on: `operations` or `bytes`."""

    ms: float
    by: str


def floor_of(work: Work, ceilings: Ceilings) -> Floor:
    """The slower of computing and moving, as if both were perfectly overlapped."""
    compute, move = work.operations / ceilings.operations, work.bytes / ceilings.bandwidth
    return Floor(1e3 * max(compute, move), "operations" if compute >= move else "bytes")


def memory_operations(shape: Shape) -> tuple[float, float]:
    """Reads and writes of one sequence's fast memory, forward and backward, in the cheaper form.

    Attention: each of the T (T - 1) / 2 pairs of steps takes a scalar product and a scaled sum of
    R numbers an inner step, 4 R; backward the same twice over. Matrix: T - 1 steps each read R^2
    numbers S times (2 R^2) and decay and add an outer product (3 R^2); backward a product with A
    and an outer product for every read (4 R^2), one decay (R^2) and one product with G + G^T
    (4 R^2) for every write.
    """
    _, steps, size, inner = shape
    if inner == 0:
        return 0.0, 0.0
    pairs, square = steps * (steps - 1) / 2, size * size
    attention = (4.0 * inner * size * pairs, 8.0 * inner * size * pairs)
    rows = (2.0 * inner + 3) * square, (4.0 * inner + 5) * square
    matrix = ((steps - 1) * rows[0], (steps - 1) * rows[1])
    return min(attention, matrix, key=sum)


def _pointwise(kind: str, shape: Shape) -> float:
    inner = max(shape.inner, 1) if kind == "fast-weights" else 1
    return float(POINTWISE[kind] * inner * shape.size)


def _parameters(kind: str, shape: Shape) -> int:
    return params.count(model.parameters(spec_of(kind, shape)))


def forward_operations(kind: str, shape: Shape) -> float:
    """C x at every step, W h from the second on, the memory, pointwise work, the head."""
    batch, steps, size, _ = shape
    slow = GATES[kind] * 2.0 * size * size
    reads = memory_operations(shape)[0] if kind == "fast-weights" else 0.0
    sequence = (2 * steps - 1) * slow + reads + steps * _pointwise(kind, shape)
    return batch * (sequence + 2.0 * size * CLASSES)


def forward(kind: str, shape: Shape) -> Work:
    """Class scores without a gradient: the batch and the weights are read once."""
    batch, steps, size, _ = shape
    numbers = batch * (steps * size + CLASSES) + _parameters(kind, shape)
    return Work(forward_operations(kind, shape), float(NUMBER * numbers))


def train(kind: str, shape: Shape) -> Work:
    """Forward, backward and Adam.

    Operations: forward; backward the gradients of C, W and h (3 products where the forward pass
    has 2; none for x, which is data), of the memory, twice the pointwise work and of the head;
    `ADAM` a parameter. Bytes: the batch read forward and for the gradient of C; what is kept for
    the backward pass and the gradient of the slow input written and read; `ADAM_TRAFFIC` numbers
    a parameter.
    """
    batch, steps, size, inner = shape
    count = _parameters(kind, shape)
    slow = GATES[kind] * 2.0 * size * size
    reads = memory_operations(shape)[1] if kind == "fast-weights" else 0.0
    backward = (3 * steps - 2) * slow + reads + 2 * steps * _pointwise(kind, shape)
    backward = batch * (backward + 4.0 * size * CLASSES)
    kept = KEPT[kind] * ((1 + max(inner, 1)) if kind == "fast-weights" else 1) * size
    activations = 2 * (kept + GATES[kind] * size)
    numbers = batch * steps * (2 * size + activations) + ADAM_TRAFFIC * count
    operations = forward_operations(kind, shape) + backward + ADAM * count
    return Work(operations, float(NUMBER * numbers))


def stream(kind: str, shape: Shape) -> Work:
    """One time step of one sequence: weights are read, A is read and written."""
    size, inner = shape.size, shape.inner
    square = size * size
    head = size * CLASSES + CLASSES
    numbers = _parameters(kind, shape) - head + 2 * size
    operations = GATES[kind] * 4.0 * square + _pointwise(kind, shape)
    if kind == "fast-weights" and inner:
        numbers += 2 * square
        operations += (2.0 * inner + 3) * square
    return Work(operations, float(NUMBER * numbers))


WORK = {"train": train, "forward": forward, "stream": stream}
