"""Where the package's folders lie, and its compiled parts for CPUs; all else is in pyproject.

The compiled parts are optional: without a C++ compiler fwt installs all the same, PyTorch runs the
equations operation by operation and MLX its own products, and `fwt doctor --json` says so.
"""

import platform
import sys
from pathlib import Path

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

# backends/torch/kernels/alstm.cpp is fwt.backends.torch.kernels._alstm, and so on; MLX needs its
# own on Linux alone
SOURCES = [
    source
    for source in sorted(Path("backends").glob("*/**/*.cpp"))
    if "mlx" not in source.parts or sys.platform == "linux"
]

setup(
    packages=[*PACKAGES, *SHIPPED],
    package_dir={**FOLDERS, **SHIPPED},
    ext_modules=[
        Extension(
            ".".join(["fwt", *source.parent.parts, f"_{source.stem}"]),
            sources=[source.as_posix()],
            extra_compile_args=[*FLAGS, *(VECTORS if "torch" in source.parts else [])],
            optional=True,
        )
        for source in SOURCES
    ],
)
