"""Where the package's folders lie, and its compiled parts for CPUs; all else is in pyproject.

The compiled parts are optional: without a C++ compiler fwt installs all the same, PyTorch runs the
equations operation by operation and MLX its own products, and `fwt doctor --json` says so.
"""

import platform
import sys

from setuptools import Extension, find_packages, setup

ROOMS = ["fwcore", "backends", "tasks", "cli"]  # at the root, imported as fwt.fwcore and so on
FOLDERS = {"fwt": "fwt", **{f"fwt.{room}": room for room in ROOMS}}
SHIPPED = {"fwt.checkpoints": "checkpoints"}  # data alone, of which pyproject takes the small ones
LINKS = [pattern for room in ROOMS for pattern in (room, f"{room}.*")]  # in fwt/, for editors
PACKAGES = [
    f"{package}.{name}" if name else package
    for package, folder in FOLDERS.items()
    for name in ["", *find_packages(folder, exclude=LINKS if folder == "fwt" else [])]
]

# vectors are never passed between two compilations; nobody asks what a square root left in errno
FLAGS = ["-O3", "-std=c++17", "-Wno-psabi", "-fno-math-errno"]
VECTORS = []
if platform.machine().lower() in ("x86_64", "amd64"):
    VECTORS.append("-march=x86-64-v3")  # AVX2; a processor without it is told from at run time

SOURCES = {
    "fwt.backends.torch.fused._kernel": ("backends/torch/fused/kernel.cpp", VECTORS),
    "fwt.backends.torch._alstm": ("backends/torch/alstm.cpp", VECTORS),
    "fwt.backends.torch._convnet": ("backends/torch/convnet.cpp", VECTORS),
    "fwt.backends.torch._denormals": ("backends/torch/denormals.cpp", VECTORS),
}
if sys.platform == "linux":
    SOURCES["fwt.backends.mlx._blas"] = ("backends/mlx/blas.cpp", [])

setup(
    packages=[*PACKAGES, *SHIPPED],
    package_dir={**FOLDERS, **SHIPPED},
    ext_modules=[
        Extension(name, sources=[source], extra_compile_args=[*FLAGS, *flags], optional=True)
        for name, (source, flags) in SOURCES.items()
    ],
)
