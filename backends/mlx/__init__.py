"""The MLX backend: Apple GPU, Linux CPU, CUDA."""

from __future__ import annotations

import os
import sys
import warnings

from fwt.backends.mlx.blas import use_numpys

_SWITCH = "MLX_ENABLE_TF32"  # MLX reads it once, at the first product of matrices on a GPU


class PrecisionWarning(UserWarning):
    """Float32 products of matrices may be rounded to TF32."""


def load(precision: str) -> object:
    """The backend; says to MLX whether float32 products may use TF32, which only GPUs have.

    On Linux's CPUs products are NumPy's (`blas.py`), unless MLX was imported before.

    Warns:
        PrecisionWarning: MLX was imported before with TF32 on, and there is a GPU: MLX may have
            read that already.
    """
    before = os.environ.get(_SWITCH, "1")
    late = "mlx.core" in sys.modules
    wanted = "0" if precision == "highest" else "1"
    os.environ[_SWITCH] = wanted
    use_numpys()
    import mlx.core as mx

    from fwt.backends.mlx.backend import MlxBackend
    from fwt.backends.mlx.compiler import use_private_folder

    use_private_folder()
    if late and wanted == "0" and before != "0" and mx.is_available(mx.gpu):
        warnings.warn(
            PrecisionWarning(
                f"backend mlx: expected {_SWITCH}=0 before mlx is imported, got "
                f"{_SWITCH}={before}: float32 products may be rounded to TF32; set it before the "
                "process starts"
            ),
            stacklevel=3,
        )
    return MlxBackend()
