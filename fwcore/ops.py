"""The operations contract: all that a model's equations ask of a framework.

Letters: B batch, T time, I input size, R hidden size, S inner steps. Arrays themselves bring
`+ - * / @`, `**` with a number, comparison, slicing, `None` indexing, `.reshape`, `.shape` and, for
two axes, `.T`. A function stands here only if several cells need it or no combination of the others
says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Array = Any  # an array of the backend's own kind
NumpyArray = NDArray[Any]

# the NumPy arrays that frameworks take without a copy or a warning
OWN: tuple[Literal["C_CONTIGUOUS"], Literal["WRITEABLE"]] = ("C_CONTIGUOUS", "WRITEABLE")


class Ops(Protocol):
    """Operations on one device in one number type."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` in the number type of these operations."""
        ...

    def constant(self, values: NumpyArray) -> Array:
        """Fixed numbers (no gradient), cast to the number type of these operations."""
        ...

    def cast(self, x: Array) -> Array:
        """`x` in the number type of these operations."""
        ...

    def relu(self, x: Array) -> Array:
        """max(x, 0), element by element; its slope at 0 is 0."""
        ...

    def tanh(self, x: Array) -> Array:
        """The hyperbolic tangent, element by element."""
        ...

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), element by element."""
        ...

    def exp(self, x: Array) -> Array:
        """The exponential, element by element."""
        ...

    def log(self, x: Array) -> Array:
        """The natural logarithm, element by element."""
        ...

    def logsumexp(self, x: Array) -> Array:
        """log(sum(exp(x))) over the last axis: (..., N) -> (...)."""
        ...

    def layer_norm(self, x: Array, gain: Array, bias: Array, epsilon: float) -> Array:
        """Gain * (x - mean) / sqrt(var + epsilon) + bias over the last axis, biased variance.

        Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450), eq. 3. (..., N), (N,), (N,) -> (..., N).
        """
        ...

    def take(self, table: Array, rows: Array) -> Array:
        """Rows of a table by number: (N, D), int (...) -> (..., D)."""
        ...

    def pick(self, x: Array, columns: Array) -> Array:
        """One element of each row: (B, N), int (B,) -> (B,)."""
        ...

    def stack(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join arrays of one shape along a new axis."""
        ...

    def unbind(self, x: Array, axis: int) -> list[Array]:
        """The slices of `x` along `axis`, that axis removed: the inverse of `stack`."""
        ...

    def split(self, x: Array, parts: int) -> list[Array]:
        """Cut the last axis into `parts` equal parts."""
        ...

    def swapaxes(self, x: Array, first: int, second: int) -> Array:
        """Exchange two axes."""
        ...
