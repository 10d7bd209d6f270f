"""The parts of the package that are compiled, for CPUs; all else is pyproject.

They are optional: without a C++ compiler fwt installs all the same, PyTorch runs the equations
operation by operation and MLX its own products, and `fwt doctor --json` says so.
"""

import platform
import sys

from setuptools import Extension, setup

# vectors are never passed between two compilations; nobody asks what a square root left in errno
FLAGS = ["-O3", "-std=c++17", "-Wno-psabi", "-fno-math-errno"]
VECTORS = []
if platform.machine().lower() in ("x86_64", "amd64"):
    VECTORS.append("-march=x86-64-v3")  # AVX2; a processor without it is told from at run time

SOURCES = {
    "backends.torch.fused._kernel": ("backends/torch/fused/kernel.cpp", VECTORS),
    "backends.torch._alstm": ("backends/torch/alstm.cpp", VECTORS),
    "backends.torch._convnet": ("backends/torch/convnet.cpp", VECTORS),
    "backends.torch._denormals": ("backends/torch/denormals.cpp", VECTORS),
}
if sys.platform == "linux":
    SOURCES["backends.mlx._blas"] = ("backends/mlx/blas.cpp", [])

setup(
    ext_modules=[
        Extension(name, sources=[source], extra_compile_args=[*FLAGS, *flags], optional=True)
        for name, (source, flags) in SOURCES.items()
    ]
)
