"""The fused core on the CPU: calls of the library made of `kernel.cpp` when fwt is installed."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from fwt.backends.torch.fused.kept import empty
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON

LIBRARY = "fwt.backends.torch.fused._kernel"
LEAST = ("AVX2", "AVX512")  # what torch calls the processors that x86-64-v3 code runs on
NAMES = {torch.float32: "float32", torch.float64: "float64"}
# in lanes: the states that are stored, pre = W h + C x, the brackets (normalised), 1 / their
# standard deviations, and A at the borders; what a variant has no use for stays as it was
KEPT = {
    "past": "P G T R L",
    "pre": "P G T R L",
    "y": "P G K T R L",
    "inverse": "P G K T L",
    "borders": "P G C R R L",
}
SMALL = 4_000_000  # products; with fewer, a second thread costs more than it saves

Call = Callable[..., None]


class Shape(ctypes.Structure):
    """`Shape` of kernel.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("members", "batch", "steps", "size")),
        *((name, ctypes.c_int64) for name in ("inner", "weights", "chunk")),
        *((name, ctypes.c_int32) for name in ("wipe", "norm")),
        ("epsilon", ctypes.c_double),
    ]


def missing(library: str = LIBRARY) -> str | None:
    """Why a library cannot be used here, as a phrase for an error; None if it can."""
    if find_spec(library) is None:
        return "it was not built (no C++ compiler when fwt was installed)"
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if x86 and torch.backends.cpu.get_cpu_capability() not in LEAST:
        return "this processor has no AVX2"
    return None


@cache
def entry(direction: str, dtype: torch.dtype, library: str = LIBRARY) -> Call:
    """A function of a library; ctypes lets other threads run while it does."""
    found = find_spec(library)
    if found is None or found.origin is None:
        raise RuntimeError(f"{library} is not there; ask missing() first")
    function: Call = getattr(ctypes.CDLL(found.origin), f"fwt_{direction}_{NAMES[dtype]}")
    function.restype = None  # type: ignore[attr-defined]
    return function


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
    """Call a function of a library for all blocks; see `spread`."""
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    where = ctypes.byref(shape)

    def part(first: int, last: int) -> None:
        call(where, ctypes.c_int64(first), ctypes.c_int64(last), *pointers)

    spread(part, blocks, products)


def _run(direction: str, shape: Shape, blocks: int, tensors: list[Tensor]) -> None:
    """Every block of sequences."""
    products = blocks * shape.steps * shape.size * (shape.size + shape.inner * shape.steps)
    run(entry(direction, tensors[0].dtype), shape, blocks, products, tensors)


def forward(
    z: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> list[Tensor]:
    """The outputs, and what is kept for the way back, by `KEPT`."""
    found = [torch.empty_like(z), *empty(KEPT, z, inner, chunk)]
    shape = Shape(*z.shape, inner, w.shape[1], chunk, wipe, norm, LAYER_NORM_EPSILON)
    given = [z, w, which, stores, gain, bias, decay, rate]
    _run("forward", shape, z.shape[0] * found[1].shape[1], [*given, *found])
    return found


def backward(
    grad_out: Tensor,
    out: Tensor,
    past: Tensor,
    pre: Tensor,
    y: Tensor,
    inverse: Tensor,
    borders: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients; all but the first still to be summed over axis 1."""
    members, groups, _, size, _ = past.shape
    dz = torch.empty_like(out)
    dgain, dbias = (gain.new_empty(members, groups, size) for _ in range(2))
    ddecay, drate = (gain.new_empty(members, groups) for _ in range(2))
    shape = Shape(*grad_out.shape, inner, w.shape[1], chunk, wipe, norm, LAYER_NORM_EPSILON)
    transposed = w.transpose(-1, -2).contiguous()
    given = [grad_out, transposed, which, stores, gain, bias, decay, rate]
    found = [dz, dgain, dbias, ddecay, drate]
    kept = [past, pre, y, inverse, borders]
    _run("backward", shape, members * groups, [*given, *kept, *found])
    return dz, dgain, dbias, ddecay, drate
