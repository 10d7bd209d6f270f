"""The NumPy backend: a float64 forward pass, the reference that needs no framework."""

from __future__ import annotations

from fwt.backends.numpy.backend import NumpyBackend


def load(precision: str) -> NumpyBackend:
    """The backend; NumPy always multiplies in full precision."""
    return NumpyBackend()
