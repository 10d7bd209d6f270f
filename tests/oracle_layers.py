"""The oracle's arithmetic and layers: scalar loops over Python floats; see `tests/oracle.py`."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Params: TypeAlias = Mapping[str, Array]
Vec: TypeAlias = list[float]
Mat: TypeAlias = list[Vec]

EPS = 1e-5


# --- arrays in, Python floats out ---------------------------------------------------------


def as_vec(a: npt.ArrayLike, *shape: int) -> Vec:
    """The one-dimensional `a` as a list of floats; `shape`, where given, is what it must be."""
    array = np.asarray(a, dtype=np.float64)
    if array.ndim != 1 or (shape and array.shape != shape):
        raise ValueError(f"a vector of shape {shape or '(N,)'} was expected, got {array.shape}")
    return cast(Vec, array.tolist())


def as_mat(a: npt.ArrayLike, *shape: int) -> Mat:
    """The two-dimensional `a` as a list of rows; `shape`, where given, is what it must be."""
    array = np.asarray(a, dtype=np.float64)
    if array.ndim != 2 or (shape and array.shape != shape):
        raise ValueError(f"a matrix of shape {shape or '(M, N)'} was expected, got {array.shape}")
    return cast(Mat, array.tolist())


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a misspelt option: an oracle must not fall through to some other model."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {value!r}")


def step_set(what: str, steps: Collection[int], count: int) -> set[int]:
    """`steps` as a set, each of them one of 0..count-1."""
    for t in steps:
        if not 0 <= t < count:
            raise ValueError(f"{what} step {t} is not one of the steps 0..{count - 1}")
    return set(steps)


def sizes_of(x: Array) -> tuple[int, int, int]:
    """(B, T, I) of a batch of sequences."""
    if x.ndim != 3:
        raise ValueError(f"x must have the shape (B, T, I), got {x.shape}")
    return x.shape[0], x.shape[1], x.shape[2]


# --- scalar and vector arithmetic ---------------------------------------------------------


def relu_of(v: float) -> float:
    """max(v, 0); a NaN stays a NaN."""
    return 0.0 if v <= 0.0 else v


def sigmoid_of(v: float) -> float:
    """1 / (1 + exp(-v)), without overflow for large negative v."""
    if v >= 0.0:
        return 1.0 / (1.0 + math.exp(-v))
    e = math.exp(v)
    return e / (1.0 + e)


def matrix_times(m: Mat, v: Vec) -> Vec:
    """M (M, N) times v (N,) -> (M,)."""
    out = [0.0] * len(m)
    for i in range(len(m)):
        if len(m[i]) != len(v):
            raise ValueError(f"a row of {len(m[i])} numbers cannot meet {len(v)} numbers")
        total = 0.0
        for j in range(len(v)):
            total += m[i][j] * v[j]
        out[i] = total
    return out


def sum_of(*vs: Vec) -> Vec:
    """The elementwise sum of vectors (N,) -> (N,)."""
    out = [0.0] * len(vs[0])
    for v in vs:
        if len(v) != len(out):
            raise ValueError(f"{len(v)} numbers cannot be added to {len(out)} numbers")
        for i in range(len(v)):
            out[i] += v[i]
    return out


def layer_norm_of(v: Vec, gain: Vec, bias: Vec, eps: float = EPS) -> Vec:
    """[N] of one vector (N,): (v - mean) / sqrt(variance + eps) * gain + bias, biased variance."""
    n = len(v)
    if len(gain) != n or len(bias) != n:
        raise ValueError(f"LN over {n} numbers has {len(gain)} gains and {len(bias)} biases")
    total = 0.0
    for i in range(n):
        total += v[i]
    mean = total / n
    squares = 0.0
    for i in range(n):
        squares += (v[i] - mean) * (v[i] - mean)
    root = math.sqrt(squares / n + eps)
    return [gain[i] * ((v[i] - mean) / root) + bias[i] for i in range(n)]


def norm_of(p: Params, name: str, size: int) -> Callable[[Vec], Vec]:
    """The layer normalization whose parameters are `name`.weight and `name`.bias, both (size,)."""
    gain, bias = as_vec(p[name + ".weight"], size), as_vec(p[name + ".bias"], size)
    return lambda v: layer_norm_of(v, gain, bias)


# --- layers -------------------------------------------------------------------------------


def layer_norm(v: Array, gain: Array, bias: Array, eps: float = EPS) -> Array:
    """[N] over the last axis. v (..., N), gain (N,), bias (N,) -> (..., N)."""
    g, b = as_vec(gain), as_vec(bias)
    rows = [layer_norm_of(row, g, b, eps) for row in as_mat(v.reshape(-1, v.shape[-1]))]
    return np.array(rows, dtype=np.float64).reshape(v.shape)


def relu(v: Array) -> Array:
    """max(v, 0) of every element. v (...) -> (...)."""
    flat = [relu_of(e) for e in as_vec(v.reshape(-1))]
    return np.array(flat, dtype=np.float64).reshape(v.shape)


def linear(weight: Array, bias: Array | None, x: Array) -> Array:
    """W x + b over the last axis. weight (O, I), bias (O,) or None, x (..., I) -> (..., O)."""
    w = as_mat(weight)
    b = [0.0] * len(w) if bias is None else as_vec(bias, len(w))
    rows = [sum_of(matrix_times(w, row), b) for row in as_mat(x.reshape(-1, x.shape[-1]))]
    return np.array(rows, dtype=np.float64).reshape(*x.shape[:-1], len(w))


def embedding(weight: Array, ids: npt.NDArray[Any]) -> Array:
    """Row ids[...] of the table. weight (symbols, E), ids integers (...) -> (..., E)."""
    table = as_mat(weight)
    rows: Mat = []
    for i in ids.reshape(-1).tolist():
        if not isinstance(i, int) or not 0 <= i < len(table):
            raise ValueError(f"id {i!r} is not one of the symbols 0..{len(table) - 1}")
        rows.append(table[i])
    return np.array(rows, dtype=np.float64).reshape(*ids.shape, weight.shape[1])


def log_softmax(logits: Array) -> Array:
    """logits_k - log sum_j exp(logits_j) over the last axis. logits (..., K) -> (..., K)."""
    rows: Mat = []
    for row in as_mat(logits.reshape(-1, logits.shape[-1])):
        top = max(row)
        total = 0.0
        for e in row:
            total += math.exp(e - top)
        rows.append([e - top - math.log(total) for e in row])
    return np.array(rows, dtype=np.float64).reshape(logits.shape)


def cross_entropy(logits: Array, targets: npt.NDArray[Any]) -> float:
    """Mean of -log p(target), natural logarithm. logits (B, K), targets integers (B,)."""
    rows = as_mat(log_softmax(logits))
    classes = targets.tolist()
    if targets.shape != (len(rows),):
        raise ValueError(f"targets must have the shape ({len(rows)},), got {targets.shape}")
    total = 0.0
    for b in range(len(rows)):
        k = classes[b]
        if not isinstance(k, int) or not 0 <= k < len(rows[b]):
            raise ValueError(f"target {k!r} is not one of the classes 0..{len(rows[b]) - 1}")
        total -= rows[b][k]
    return total / len(rows)
