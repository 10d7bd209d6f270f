"""NumPy on this machine: one device, float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwt.backends.numpy.compiled import NumpyCompiled
from fwt.backends.numpy.ops import NumpyOps
from fwt.fwcore import limits, model
from fwt.fwcore.errors import BackendError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import as_parameters, initialise
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.training import launcher
from fwt.fwcore.training.ranks import SINGLE, Ranks


class NumpyBackend:
    """`fwt.backends.contract.Backend` for NumPy."""

    name = "numpy"

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def devices(self) -> list[str]:
        return ["cpu"]

    def device(self, name: str) -> str:
        """The CPU's name, the only device.

        Raises:
            BackendError: another device was asked for.
        """
        if name not in ("auto", "cpu"):
            raise BackendError(f"backend numpy: no device {name!r}; there are: cpu")
        return "cpu"

    def fused(self) -> dict[str, str]:
        return {"cpu": "none: the equations alone"}

    def memory_bytes(self, device: str) -> int:
        return limits.memory_bytes()

    def ranks(self) -> Ranks:
        launcher.job_of(self.name)
        return SINGLE

    def compile(
        self,
        spec: ModelSpec,
        params: Mapping[str, NumpyArray] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
    ) -> NumpyCompiled:
        """Only float64; a float32 asked for would not be obeyed."""
        self.device(device)
        if dtype not in ("auto", "float64"):
            raise BackendError(f"backend numpy: it computes in float64 only, got dtype={dtype!r}")
        table = model.parameters(spec)
        first = initialise(table, 0) if params is None else params
        return NumpyCompiled(spec, as_parameters(table, first, "float64"), NumpyOps(), memory)
