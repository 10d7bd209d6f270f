"""The PyTorch backend: CPU, CUDA and MPS (MPS runs, but is not the reference)."""

from __future__ import annotations

import torch

from backends.torch.backend import TorchBackend


def load(precision: str) -> TorchBackend:
    """The backend; sets how float32 matrices are multiplied in this process.

    Numbers too small for full precision become zero where the processor can do that: gradients
    that vanish over a long sequence end among them, and each costs a hundred times the work (the
    training step of an LSTM over 1,000 steps was measured at 33 s with them, 0.16 s without).
    """
    torch.set_flush_denormal(True)
    mode = "ieee" if precision == "highest" else "tf32"
    torch.backends.fp32_precision = mode  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.fp32_precision = mode
    return TorchBackend()
