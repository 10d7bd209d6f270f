"""The C++ libraries of the CPU's kernels: found, loaded and called in one way."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

LEAST = ("AVX2", "AVX512")  # what torch calls the processors that x86-64-v3 code runs on
NAMES = {torch.float32: "float32", torch.float64: "float64"}
SMALL = 4_000_000  # products; with fewer, a second thread costs more than it saves

Call = Callable[..., None]


@cache
def load(name: str) -> ctypes.CDLL | None:
    """A library by the name of its module; None if it was not built.

    ctypes lets other threads run while a function of it does.
    """
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else ctypes.CDLL(spec.origin)


def missing(name: str) -> str | None:
    """Why a library cannot be used here, as a phrase for an error; None if it can."""
    if find_spec(name) is None:
        return "it was not built (no C++ compiler when fwt was installed)"
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if x86 and torch.backends.cpu.get_cpu_capability() not in LEAST:
        return "this processor has no AVX2"
    return None


@cache
def entry(name: str, function: str, dtype: torch.dtype) -> Call:
    """A function of a library for a number type."""
    library = load(name)
    if library is None:
        raise RuntimeError(f"{name} is not there; ask missing() first")
    call: Call = getattr(library, f"fwt_{function}_{NAMES[dtype]}")
    call.restype = None  # type: ignore[attr-defined]
    return call


def covers(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a library can be used for tensors of a device and a number type."""
    return device.type == "cpu" and dtype in NAMES and missing(name) is None


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="fwt")


def spread(part: Callable[[int, int], None], blocks: int, products: int) -> None:
    """Call `part` for all blocks, from the first to before the last, on as many threads as torch.

    Args:
        products: in all blocks together; a few are done by this thread alone.
    """
    count = min(torch.get_num_threads(), blocks) if products > SMALL else 1
    if count == 1:
        part(0, blocks)
        return
    ends = [round(blocks * i / count) for i in range(count + 1)]
    rest = [_threads(count).submit(part, *ends[i : i + 2]) for i in range(1, count)]
    part(*ends[:2])
    for future in rest:
        future.result()


def run(
    call: Call,
    shape: ctypes.Structure,
    blocks: int,
    products: int,
    tensors: Sequence[Tensor | None],
) -> None:
    """Call a function of a library for all blocks, on several threads where that pays."""
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    where = ctypes.byref(shape)

    def part(first: int, last: int) -> None:
        call(where, ctypes.c_int64(first), ctypes.c_int64(last), *pointers)

    spread(part, blocks, products)
