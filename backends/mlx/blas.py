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

from fwt.fwcore import blas

LIBRARY = "fwt.backends.mlx._blas"
PRODUCTS = ("cblas_sgemm", "cblas_dgemm")


@cache
def use_numpys() -> bool:
    """Give MLX NumPy's products for as long as the process lasts; False where it keeps its own.

    That is where `blas.cpp` was not compiled (macOS, whose MLX has Apple's; no C++ compiler),
    where NumPy brings no OpenBLAS, and where MLX was imported before.
    """
    found = find_spec(LIBRARY)
    if found is None or found.origin is None or "mlx.core" in sys.modules:
        return False
    products = [blas.function(name) for name in PRODUCTS]
    if None in products:
        return False
    ctypes.CDLL(found.origin).fwt_use(*(ctypes.cast(each, ctypes.c_void_p) for each in products))
    ctypes.CDLL(found.origin, ctypes.RTLD_GLOBAL)
    return True
