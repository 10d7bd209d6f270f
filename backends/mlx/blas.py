"""NumPy's products of matrices for MLX on Linux's CPUs, whose own are some twenty times slower.

MLX's wheels for Linux bring the reference BLAS: one thread, no vectors. NumPy's bring OpenBLAS,
which is in the process anyway. The library made of `blas.cpp` has the names that MLX calls, and is
made known to the process before MLX is loaded, so that MLX finds these first.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec

LIBRARY = "backends.mlx._blas"
NUMPY = "numpy._core._multiarray_umath"  # is linked to NumPy's BLAS
NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_")  # in OpenBLAS as NumPy's wheels bring it


def _products() -> list[ctypes.c_void_p] | None:
    """NumPy's `sgemm` and `dgemm`; None where it brings no OpenBLAS."""
    found = find_spec(NUMPY)
    library = ctypes.CDLL(found.origin if found else None)
    for name in NAMES:
        if hasattr(library, name.format("s")):
            return [ctypes.cast(library[name.format(k)], ctypes.c_void_p) for k in "sd"]
    return None


@cache
def use_numpys() -> bool:
    """Give MLX NumPy's products for as long as the process lasts; False where it keeps its own.

    That is where `blas.cpp` was not compiled (macOS, whose MLX has Apple's; no C++ compiler),
    where NumPy brings no OpenBLAS, and where MLX was imported before.
    """
    found = find_spec(LIBRARY)
    if found is None or found.origin is None or "mlx.core" in sys.modules:
        return False
    products = _products()
    if products is None:
        return False
    ctypes.CDLL(found.origin).fwt_use(*products)
    ctypes.CDLL(found.origin, ctypes.RTLD_GLOBAL)
    return True
