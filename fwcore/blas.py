"""NumPy's OpenBLAS: its products of matrices, and how many threads it computes with."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from typing import Any

LIBRARY = "numpy._core._multiarray_umath"  # is linked to it
NAMES = ("scipy_{}64_", "{}64_")  # of its functions, in NumPy's wheels


@cache
def function(name: str) -> Any:
    """One of its C functions, e.g. `cblas_sgemm`, with integers of 64 bits; None if NumPy has none.

    That is so where NumPy was built on another BLAS, such as Apple's.
    """
    found = find_spec(LIBRARY)
    library = ctypes.CDLL(found.origin if found else None)
    names = (pattern.format(name) for pattern in NAMES)
    return next((library[each] for each in names if hasattr(library, each)), None)


def threads() -> int | None:
    """How many threads it computes with; None where NumPy has another BLAS."""
    count = function("openblas_get_num_threads")
    return None if count is None else int(count())
