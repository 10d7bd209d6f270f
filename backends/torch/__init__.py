"""The PyTorch backend: CPU, CUDA and MPS (MPS runs, but is not the reference)."""

from __future__ import annotations

from fwt.backends.torch.backend import TorchBackend


def load(precision: str) -> TorchBackend:
    """The backend; how float32 matrices are multiplied holds in its own calls alone."""
    return TorchBackend(precision)
