"""The MLX backend: Apple GPU, Linux CPU, CUDA."""

from __future__ import annotations

import os
import sys

from fwcore.errors import BackendError

_SWITCH = "MLX_ENABLE_TF32"  # MLX reads it once, when it is imported


def load(precision: str) -> object:
    """The backend; decides before MLX is imported whether float32 products may use TF32.

    Raises:
        BackendError: MLX is already imported with the other precision.
    """
    wanted = "0" if precision == "highest" else "1"
    if "mlx.core" in sys.modules and os.environ.get(_SWITCH, "1") != wanted:
        raise BackendError(
            f"backend mlx: precision={precision!r} must be chosen before mlx is imported; "
            f"set {_SWITCH}={wanted} before the process starts"
        )
    os.environ[_SWITCH] = wanted
    from backends.mlx.backend import MlxBackend

    return MlxBackend()
