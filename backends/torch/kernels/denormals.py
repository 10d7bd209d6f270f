"""Numbers too small for full precision, set to zero while a training step runs on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch

from fwt.backends.torch.kernels import library

LIBRARY = "fwt.backends.torch.kernels._denormals"


class Workers(NamedTuple):
    """Calls of the library made of `denormals.cpp`, and of the OpenMP that torch runs on.

    Attributes:
        parallel: calls a function on each thread of a team, which are those of torch.
        functions: has `fwt_flush` and `fwt_restore` for a thread, and `fwt_bits`.
    """

    parallel: ctypes._NamedFuncPointer
    functions: ctypes.CDLL

    def call(self, name: str, bits: ctypes.c_uint64) -> None:
        """Call a function of the library on this thread and on each worker of torch's."""
        function = ctypes.cast(getattr(self.functions, name), ctypes.c_void_p)
        self.parallel(function, ctypes.byref(bits), torch.get_num_threads(), 0)


@cache
def _workers() -> Workers | None:
    """None where the library was not built, or torch's OpenMP has no such call (Windows)."""
    functions = library.load(LIBRARY)
    parallel = getattr(ctypes.CDLL(torch._C.__file__), "GOMP_parallel", None)
    if functions is None or parallel is None:
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    functions.fwt_bits.restype = ctypes.c_uint64
    return Workers(parallel, functions)


@contextmanager
def flushed() -> Iterator[None]:
    """Denormal results are zero inside, on this thread and torch's workers; then as before.

    Gradients that vanish over a long sequence end among these numbers, and each costs a hundred
    times the work: a training step of `nn.LSTM` over 1,000 steps was measured at 33 s with them
    and at 0.16 s without. A processor that cannot flush them goes on as it is; so do the workers,
    but not this thread, where `denormals.cpp` was not compiled.
    """
    workers = _workers()
    if workers is None:
        with _this_thread():
            yield
        return
    bits = ctypes.c_uint64(workers.functions.fwt_bits())
    workers.call("fwt_flush", bits)
    try:
        yield
    finally:
        workers.call("fwt_restore", bits)


@contextmanager
def _this_thread() -> Iterator[None]:
    before = 5e-324 * 1.0 == 0  # the smallest float64 is zero where such numbers are flushed
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
