"""What the Triton kernels of both directions are made of; `cuda.py` says how they work."""

# Triton has no types, and its kernels none that a type checker could use.
# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def relu(x):
    """max(x, 0), NaN kept."""
    return tl.where(x <= 0, 0.0, x)  # lets NaN through, as torch.relu does


@triton.jit
def log2_of(decay):
    """log2 of a decay in device memory, taken in float64; of 0 that of next to 0."""
    value = tl.load(decay).to(tl.float64)
    return tl.log2(tl.where(value == 0, 1e-300, value)).to(decay.dtype.element_ty)


@triton.jit
def power_of(log_decay, age):
    """Decay^age from log2(decay)."""
    return tl.exp2(log_decay * age)


@triton.jit
def slope_of(log_decay, age):
    """The derivative of decay^age by decay; 0 at age 0."""
    return age * tl.exp2(log_decay * tl.maximum(age - 1, 0))


@triton.jit
def product(
    matrix,
    vector,
    units,
    size: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
    transpose: tl.constexpr,
):
    """A matrix (R, R) in global memory, or its transpose, times a vector (R'), tile by tile."""
    total = tl.zeros([padded], vector.dtype)
    for first in range(0, size, tile):
        places = first + tl.arange(0, tile)
        part = vector if tile == padded else tl.gather(vector, places, 0)
        if transpose:
            inside = (places[:, None] < size) & (units[None, :] < size)
            values = tl.load(matrix + places[:, None] * size + units[None, :], inside, 0.0)
            total += tl.sum(values * part[:, None], 0)
        else:
            inside = (units[:, None] < size) & (places[None, :] < size)
            values = tl.load(matrix + units[:, None] * size + places[None, :], inside, 0.0)
            total += tl.sum(values * part[None, :], 1)
    return total


@triton.jit
def chosen(matrices, which, slow: tl.constexpr, size: tl.constexpr):
    """One of N matrices (R, R) by its number, and 0, or NaN for a number that none has."""
    number = tl.load(which)
    inside = (number >= 0) & (number < slow)
    return matrices + tl.where(inside, number, 0) * size * size, tl.where(inside, 0.0, float("nan"))


@triton.jit
def square(matrix, units, size: tl.constexpr):
    """A matrix (R, R) of global memory as one register tile (R', R')."""
    inside = (units[:, None] < size) & (units[None, :] < size)
    return tl.load(matrix + units[:, None] * size + units[None, :], inside, 0.0)


@triton.jit
def rows_of(array, steps, inside, units, size: tl.constexpr):
    """Rows `steps` of an array (T, R) as a register tile; 0 where not `inside`."""
    wanted = inside[:, None] & (units[None, :] < size)
    return tl.load(array + steps[:, None] * size + units[None, :], wanted, 0.0)


@triton.jit
def readout(states, weights, query):
    """Scores and readout of a tile of states (n, R') in one pass: sum of w (h . q) h."""
    scores = tl.sum(states * query[None, :], 1) * weights
    return tl.sum(states * scores[:, None], 0)


@triton.jit
def normalise(bracket, live, size: tl.constexpr, epsilon: tl.constexpr):
    """Layer norm without gain and bias, and 1 / sqrt(variance + epsilon)."""
    mean = tl.sum(bracket, 0) / size
    centred = tl.where(live, bracket - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 0) / size + epsilon)
    return centred * rstd, rstd


@triton.jit
def recall(
    matrix,
    exists,
    query,
    units,
    size: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
):
    """A symmetric matrix (R, R) of global memory times a query; 0 where it does not exist."""
    total = tl.zeros([padded], query.dtype)
    if exists:
        total = product(matrix, query, units, size, padded, tile, True)
    return total
