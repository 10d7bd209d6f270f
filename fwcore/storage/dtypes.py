"""Types of numbers in files of other programs: NumPy has not all of them, and we compute in two."""

from __future__ import annotations

import numpy as np

from fwt.fwcore.ops import NumpyArray

BFLOAT16 = np.dtype("V2")  # as JAX and MLX write it to .npz: two bytes that NumPy has no name for


def unread(name: str, shape: tuple[int, ...]) -> NumpyArray:
    """An array that stands for one of a type that cannot be read: its shape, and the type's name.

    It takes no memory; `type_name` gives the name back.
    """
    return np.empty(shape, np.dtype([(name, "V0")]))


def narrow(kind: np.dtype[np.generic]) -> str | None:
    """`bfloat16` or `float16` for those types, in any byte order; None for others."""
    if kind == BFLOAT16:
        return "bfloat16"
    return "float16" if kind.kind == "f" and kind.itemsize == 2 else None


def type_name(kind: np.dtype[np.generic]) -> str:
    """The name of an array's type, those that NumPy has none for included."""
    if kind.names and not kind.itemsize:
        return kind.names[0]
    return narrow(kind) or str(kind)


def widen(array: NumpyArray) -> NumpyArray:
    """float32 of a bfloat16 or float16 array, exactly; others in this machine's byte order."""
    if array.dtype == BFLOAT16:  # the upper half of a float32
        return np.asarray(array.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if narrow(array.dtype):
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
