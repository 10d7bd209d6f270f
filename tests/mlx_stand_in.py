"""The GPU kernels of MLX's fused core as C++: the same bodies, run by threads of this machine."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import need, required

SHIM = Path(__file__).with_name("mlx_kernel_shim.h")
FLAGS = ["-std=c++17", "-O0", "-pthread", "-shared", "-fPIC", "-Wall", "-Wextra"]
UNUSED = ["-Wno-unused-parameter", "-Wno-unused-variable"]  # the two bodies share a preamble

Edit = Callable[[str], str]


def compiler() -> str:
    """A C++ compiler, or the test is skipped with the reason, or failed where MLX is required."""
    need("mlx")
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None and "mlx" in required():
        pytest.fail("no C++ compiler to run the kernels' bodies with")
    if found is None:
        pytest.skip("no C++ compiler to run the kernels' bodies with")
    return found


def _function(direction: str, edit: Edit, sizes: Sequence[tuple[int, int]]) -> str:
    """A body as a function template, and one entry that picks R and the number of threads."""
    from fwt.backends.mlx.kernels.fused import kernel

    inputs, outputs = kernel.INPUTS[direction], kernel.OUTPUTS[direction]
    typed = [f"const {'int' if name == 'plan' else 'real'}* {name}" for name in inputs]
    arguments = ", ".join([*typed, *(f"real* {name}" for name in outputs)])
    names = ", ".join([*inputs, *outputs])
    calls = "".join(
        f"  if (size == {size} && threads == {threads})\n"
        f"    return on_threads(threads, groups, [=](int place, int sequence) {{\n"
        f"      {direction}<{size}, {threads}>(place, sequence, {names}); }}), 0;\n"
        for size, threads in sizes
    )
    return (
        "template <int SIZE, int THREADS>\n"
        f"void {direction}(int place, int sequence, {arguments}) {{\n"
        f"{edit(kernel.text(direction))}}}\n\n"
        f'extern "C" int run_{direction}(int size, int threads, int groups, {arguments}) {{\n'
        f"{calls}  return 1;\n}}\n\n"
    )


class StandIn:
    """`Runner` of the MLX kernels: the bodies compiled for some R, on some threads.

    Args:
        folder: where the library is made.
        dtype: `float32` or `float64`.
        sizes: R that may be asked for, each with its numbers of threads.
        edit: a change of the bodies' text.
        flags: more flags of the compiler.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        sizes: Sequence[tuple[int, int]],
        edit: Edit = lambda text: text,
        flags: Sequence[str] = (),
    ) -> None:
        gcc = compiler()  # or the test is skipped, before MLX is imported
        from fwt.backends.mlx.kernels.fused import kernel

        self.dtype, self.threads, self.calls = np.dtype(dtype), sizes[0][1], 0
        real = {"float32": "float", "float64": "double"}[dtype]
        functions = (_function(direction, edit, sizes) for direction in ("forward", "backward"))
        parts = [f"using real = {real};\n", SHIM.read_text(), kernel.text("common"), *functions]
        path = folder / f"kernels_{dtype}.cpp"
        path.write_text("".join(parts))
        library = path.with_suffix(".so")
        command = [gcc, *FLAGS, *UNUSED, *flags, str(path), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        self._library = ctypes.CDLL(str(library))

    def on(self, threads: int) -> StandIn:
        """The same on another number of threads a group."""
        self.threads = threads
        return self

    def __call__(
        self, direction: str, size: int, groups: int, inputs: list[Any], shapes: list[Any]
    ) -> list[Any]:
        """The outputs; what a kernel leaves alone stays NaN."""
        import mlx.core as mx

        self.calls += 1
        given = [np.ascontiguousarray(np.array(array)) for array in inputs]
        kinds = [np.dtype(np.int32), *[self.dtype] * (len(given) - 1)]
        assert [array.dtype for array in given] == kinds
        assert all(array.ndim == 1 and array.size >= 8 for array in given)
        found = [np.full(shape, np.nan, self.dtype) for shape in shapes]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*given, *found)]
        run = getattr(self._library, f"run_{direction}")
        assert run(size, self.threads, groups, *pointers) == 0, "a size that was not compiled"
        kind = mx.float32 if self.dtype == np.float32 else mx.float64
        return [mx.array(array, dtype=kind) for array in found]
