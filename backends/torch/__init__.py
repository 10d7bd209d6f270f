"""The PyTorch backend: CPU, CUDA and MPS (MPS runs, but is not the reference)."""

from __future__ import annotations

import torch

from backends.torch.backend import TorchBackend
from backends.torch.denormals import start_workers


def load(precision: str) -> TorchBackend:
    """The backend; sets how float32 matrices are multiplied in this process."""
    start_workers()
    mode = "ieee" if precision == "highest" else "tf32"
    torch.backends.fp32_precision = mode  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.fp32_precision = mode
    return TorchBackend()
