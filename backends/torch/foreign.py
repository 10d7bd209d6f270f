"""State dicts that `torch.save` wrote, read without running any code in them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage.dtypes import BFLOAT16, unread


def read_state_dict(path: Path) -> dict[str, NumpyArray]:
    """The tensors of a `.pt` file as NumPy arrays by name.

    bfloat16 comes as `fwt.fwcore.storage.dtypes.BFLOAT16`, a type unknown to NumPy as its `unread`.

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
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: expected a state dict of tensors, got {type(found).__name__}"
        )
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: expected a state dict of tensors, got {name!r} of type "
                f"{type(value).__name__}; save what state_dict() returns, alone"
            )
    try:
        return {str(name): _array(value.detach()) for name, value in found.items()}
    except (TypeError, RuntimeError) as error:  # of sparse and other special tensors
        raise _refusal(path, error) from error


def _array(value: torch.Tensor) -> NumpyArray:
    if value.dtype is torch.bfloat16:
        return value.view(torch.int16).numpy().view(BFLOAT16)
    try:
        return value.numpy()
    except TypeError:
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise
        return unread(str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _refusal(path: Path, error: Exception) -> CheckpointError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{path}: refused: not a plain state dict ({why})")
