"""Populations on NumPy: refused, as training is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from fwt.backends.contract import Backend
from fwt.backends.numpy.compiled import _refuse
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec


def compile_population(
    backend: Backend,
    specs: Sequence[ModelSpec],
    params: Sequence[Mapping[str, NumpyArray]],
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "auto",
) -> NoReturn:
    """Always raises BackendError."""
    _refuse("training")
