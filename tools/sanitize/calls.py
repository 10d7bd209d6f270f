"""Calls of one of the C++ libraries with drawn arguments, in a process that a sanitizer watches.

Every array is allocated by itself with the size that it must have and not a byte more, so that a
read or write beside it is seen. Sizes are small and odd: lanes and registers partly filled, one
unit, one time step, chunks of any length, all patterns of writes.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fwt.fwcore.ops import NumpyArray

LANES = 32  # bytes of a register of lanes, to which arrays in lanes are aligned
LIBC = ctypes.CDLL(None)


class Call:
    """One call of each direction of a library: its numbers, and the memory of its arrays.

    Args:
        library: the library.
        seed, number: what is drawn follows from both.
    """

    def __init__(self, library: ctypes.CDLL, seed: int, number: int) -> None:
        self._library, self.draw = library, np.random.default_rng([seed, number])
        self.kind = ("float32", "float64")[int(self.draw.integers(2))]
        self.bytes = np.dtype(self.kind).itemsize
        self._rooms: list[ctypes.c_void_p] = []

    def size(self, most: int) -> int:
        """A size from 1; small ones as often as large ones."""
        return int(self.draw.integers(1, int(self.draw.integers(2, most + 2))))

    def flags(self, count: int) -> NumpyArray:
        """Truth of each of some steps: none, all, or any."""
        return self.draw.random(count) < self.draw.choice([0.0, 0.5, 1.0])

    def given(self, *shape: int, dtype: str | None = None, values: Any = None) -> int:
        """The address of an array of drawn numbers, in one call of ten with one that is none."""
        drawn = self.draw.normal(size=shape) if values is None else np.asarray(values)
        if values is None and self.draw.random() < 0.1:
            drawn.flat[0] = self.draw.choice([math.nan, math.inf, -math.inf])
        array = np.ascontiguousarray(drawn.astype(dtype or self.kind))
        place = self.room(*shape, dtype=dtype)
        ctypes.memmove(place, array.ctypes.data, array.nbytes)
        return place

    def room(self, *shape: int, dtype: str | None = None) -> int:
        """The address of an array that is to be filled."""
        size = math.prod(shape) * np.dtype(dtype or self.kind).itemsize
        place = ctypes.c_void_p()
        if LIBC.posix_memalign(ctypes.byref(place), ctypes.c_size_t(LANES), ctypes.c_size_t(size)):
            raise MemoryError(f"sanitize: no room for {size} bytes")
        self._rooms.append(place)
        return place.value or 0

    def run(self, direction: str, first: bytes, *rest: int) -> None:
        """Call a function; whole numbers above 32 bits are addresses."""
        function = getattr(self._library, f"fwt_{direction}_{self.kind}")
        function.restype = None
        function(ctypes.c_char_p(first), *(ctypes.c_int64(number) for number in rest))

    def free(self) -> None:
        """Give all memory back."""
        for place in self._rooms:
            LIBC.free(place)


def fused(call: Call) -> None:
    """The whole time loop, forward and backward, in parts as threads have it."""
    members, batch, steps, size = (call.size(most) for most in (3, 19, 13, 21))
    inner, sets, chunk = int(call.draw.integers(4)), call.size(3), call.size(steps + 3)
    wipe, norm = (int(n) for n in call.draw.integers(2, size=2))
    shape = struct.pack("7q2id", members, batch, steps, size, inner, sets, chunk, wipe, norm, 1e-5)
    lanes = LANES // call.bytes
    groups, turns = -(-batch // lanes), max(inner, 1)
    which = call.given(steps, dtype="int64", values=call.draw.integers(sets, size=steps))
    stores = call.given(steps, dtype="uint8", values=call.flags(steps))
    w = call.given(members, sets, size, size)
    bound = [call.given(members, size) for _ in range(2)]
    rates = [call.given(members, values=call.draw.choice([0, 0.5, 1], members)) for _ in range(2)]
    shared = [w, which, stores, *bound, *rates]
    states = (members, batch, steps, size)
    block = (members, groups)
    kept = [
        call.room(*block, *axes, lanes)
        for axes in (
            (steps, size),
            (steps, size),
            (turns, steps, size),
            (turns, steps),
            ((steps - 1) // chunk, size, size),
        )
    ]
    parts = sorted({0, members * groups, int(call.draw.integers(members * groups + 1))})
    z, out = call.given(*states), call.room(*states)
    for part in itertools.pairwise(parts):
        call.run("forward", shape, *part, z, *shared, out, *kept)
    found = [call.room(*states), *(call.room(*block, size) for _ in range(2))]
    found += [call.room(*block) for _ in range(2)]
    grad = call.given(*states)
    for part in itertools.pairwise(parts):
        call.run("backward", shape, *part, grad, *shared, *kept, *found)


def stream(call: Call) -> None:
    """Some time steps of the fused core one by one."""
    batch, inputs, size = (call.size(most) for most in (5, 7, 21))
    norm, wipe = (int(n) for n in call.draw.integers(2, size=2))
    arrays = [call.given(size), call.given(size), call.given(batch, size)]
    arrays += [call.given(batch, size, size), call.room(2, size)]
    settings = struct.pack(
        "5q3d5q", batch, inputs, size, call.size(4) - 1, norm, 1e-5, 0.9, 0.3, *arrays
    )
    c, w = call.given(inputs, size), call.given(size, size)
    for t, stores in enumerate(call.flags(3)):
        x, out = call.given(batch, inputs), call.room(batch, size)
        call.run("stream", settings, x, c, w, int(t > 0), int(stores), wipe, out)


def alstm(call: Call) -> None:
    """A time step of the A-LSTM, forward and backward."""
    half, copies, batch = (call.size(most) for most in (19, 5, 7))
    shape = struct.pack("2q", half, copies)
    places = np.stack([call.draw.permutation(half) for _ in range(copies)])
    order = call.given(copies, half, dtype="int32", values=places)
    memory = (batch, copies, half)
    pre, gates = call.given(batch, 9 * half), call.given(batch, 3 * half)
    old = [call.given(*memory) for _ in range(2)]
    h, c = call.room(batch, 2 * half), [call.room(*memory) for _ in range(2)]
    for part in ((0, batch // 2), (batch // 2, batch)):
        call.run("forward", shape, *part, pre, gates, *old, order, h, *c)
    slopes = [call.given(batch, 2 * half), *(call.given(*memory) for _ in range(2))]
    found = [call.room(batch, 9 * half), *(call.room(*memory) for _ in range(2))]
    for part in ((0, batch // 2), (batch // 2, batch)):
        call.run("backward", shape, *part, *slopes, pre, gates, *old, *c, order, *found)


def convnet(call: Call) -> None:
    """The first layer of the ConvNet, forward and backward, in one block of glimpses or several."""
    side, size = 2 + call.size(9), call.size(19)
    count = call.size(5) if call.draw.random() < 0.9 else 60 + call.size(80)
    pooled = (side - 3) // 2 + 1
    maxima = pooled**2
    words, whole = -(-maxima // (2 * call.bytes)), f"int{8 * call.bytes}"
    shape = struct.pack("4q", count, side, pooled, size)
    blocks = -(-count // 64)
    pixels, kernel = call.given(count, side**2), call.given(10, size)
    out, winners = call.room(count, maxima, size), call.room(count, words, size, dtype=whole)
    for block in range(blocks):
        call.run("forward", shape, block, block + 1, pixels, kernel, out, winners)
    seen = call.room(count, side**2) if call.draw.random() < 0.5 else 0
    slopes, sums = call.given(count, maxima, size), call.room(blocks, 10, size)
    for block in range(blocks):
        call.run("backward", shape, block, block + 1, slopes, pixels, kernel, winners, sums, seen)


KINDS: dict[str, tuple[Callable[[Call], None], ...]] = {
    "kernel": (fused, stream),
    "alstm": (alstm,),
    "convnet": (convnet,),
}


def main() -> None:
    """Call all kinds of a library: NAME PATH SEED COUNT, and say the number of each call first."""
    name, path, seed, count = sys.argv[1:]
    library = ctypes.CDLL(path)
    for number in range(int(count)):
        for kind in KINDS[name]:
            print(kind.__name__, number, flush=number % 50 == 0)
            call = Call(library, int(seed), number)
            kind(call)
            call.free()


if __name__ == "__main__":
    main()
