"""Rows of a table that stand for an array: a product is made once for each row of the table."""

from __future__ import annotations

from fwt.fwcore.ops import Array, Ops


class LookedUp:
    """The array `table[rows]`, (..., N), kept apart: with it, x W is (table W)[rows].

    A batch of 128 strings of 11 symbols has 1,408 rows and the table of symbols 37, so the slow
    input of a training step costs a third or less.

    Args:
        table: (M, N).
        rows: int (...).
    """

    def __init__(self, ops: Ops, table: Array, rows: Array) -> None:
        self._ops, self._table, self._rows = ops, table, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return (*self._rows.shape, self._table.shape[-1])

    def __matmul__(self, weights: Array) -> Array:
        """The array times a matrix (N, K): (..., K)."""
        return self._ops.take(self._table @ weights, self._rows)

    def swapped(self) -> LookedUp:
        """The array with its first two axes exchanged."""
        return LookedUp(self._ops, self._table, self._ops.swapaxes(self._rows, 0, 1))

    def dense(self) -> Array:
        """The array itself."""
        return self._ops.take(self._table, self._rows)


def dense(x: Array) -> Array:
    """An array, looked up if it is kept apart."""
    return x.dense() if isinstance(x, LookedUp) else x
