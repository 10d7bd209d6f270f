"""The one part of the package that is compiled: the fused core on the CPU; all else is pyproject.

It is optional: without a C++ compiler fwt installs all the same, runs the equations operation by
operation, and `fwt doctor` says so.
"""

import platform

from setuptools import Extension, setup

FLAGS = ["-O3", "-std=c++17", "-Wno-psabi"]  # vectors are never passed between two compilations
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS.append("-march=x86-64-v3")  # AVX2; a processor without it is told from at run time

setup(
    ext_modules=[
        Extension(
            "backends.torch.fused._kernel",
            sources=["backends/torch/fused/kernel.cpp"],
            extra_compile_args=FLAGS,
            optional=True,
        )
    ]
)
