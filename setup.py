"""The parts of the package that are compiled, for PyTorch on the CPU; all else is pyproject.

They are optional: without a C++ compiler fwt installs all the same, runs the equations operation by
operation, and `fwt doctor` says so.
"""

import platform

from setuptools import Extension, setup

# vectors are never passed between two compilations; nobody asks what a square root left in errno
FLAGS = ["-O3", "-std=c++17", "-Wno-psabi", "-fno-math-errno"]
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS.append("-march=x86-64-v3")  # AVX2; a processor without it is told from at run time

SOURCES = {
    "backends.torch.fused._kernel": "backends/torch/fused/kernel.cpp",
    "backends.torch._alstm": "backends/torch/alstm.cpp",
    "backends.torch._convnet": "backends/torch/convnet.cpp",
    "backends.torch._denormals": "backends/torch/denormals.cpp",
}

setup(
    ext_modules=[
        Extension(name, sources=[source], extra_compile_args=FLAGS, optional=True)
        for name, source in SOURCES.items()
    ]
)
