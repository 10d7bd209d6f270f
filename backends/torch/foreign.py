"""State dicts that `torch.save` wrote, read without running any code in them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from fwcore.errors import CheckpointError
from fwcore.ops import NumpyArray


def read_state_dict(path: Path) -> dict[str, NumpyArray]:
    """The tensors of a `.pt` file as NumPy arrays by name; bfloat16 and float16 as float32.

    Args:
        path: a state dict saved by `torch.save`.

    Raises:
        CheckpointError: it is damaged, holds other things than tensors, or would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: such a file is refused anyway
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise _refusal(path, error) from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise CheckpointError(
            f"{path}: expected a state dict of tensors, got {type(found).__name__}"
        )
    small = (torch.float16, torch.bfloat16)
    try:
        return {
            str(name): (value.float() if value.dtype in small else value).detach().numpy()
            for name, value in found.items()
        }
    except (TypeError, RuntimeError) as error:  # of sparse, quantised and other special tensors
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> CheckpointError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{path}: refused: not a plain state dict ({why})")
