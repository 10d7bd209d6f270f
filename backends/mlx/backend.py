"""MLX on this machine: its devices, their memory, and models compiled for them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import mlx.core as mx

from fwt.backends.contract import no_dtype
from fwt.backends.mlx import kernels, ranks
from fwt.backends.mlx.blas import use_numpys
from fwt.backends.mlx.compiled import MlxCompiled
from fwt.backends.mlx.ops import MlxOps
from fwt.fwcore import limits, model
from fwt.fwcore.errors import BackendError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import as_parameters, initialise
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.training.ranks import Ranks

DTYPES = {"float32": mx.float32, "float64": mx.float64, "bfloat16": mx.bfloat16}


class MlxBackend:
    """`fwt.backends.contract.Backend` for MLX."""

    name = "mlx"

    def versions(self) -> dict[str, str]:
        """`mlx_products` says whose products of matrices CPUs run."""
        return {"mlx": version("mlx"), "mlx_products": "numpy" if use_numpys() else "mlx"}

    def devices(self) -> list[str]:
        """The GPU (Metal or CUDA) first if there is one, then the CPU."""
        return (["gpu"] if mx.is_available(mx.gpu) else []) + ["cpu"]

    def fused(self) -> dict[str, str]:
        """A GPU is asked for first whether its kernels hold the equations."""
        return {name: kernels.fused_on(mx.Device(getattr(mx, name))) for name in self.devices()}

    def device(self, name: str) -> str:
        """A device's full name; `auto` means the first.

        Raises:
            BackendError: there is no such device here.
        """
        known = self.devices()
        if name != "auto" and name not in known:
            raise BackendError(
                f"backend mlx: no device {name!r} on this machine; there are: {', '.join(known)}"
            )
        return known[0] if name == "auto" else name

    def memory_bytes(self, device: str) -> int:
        if self.device(device) == "cpu":
            return limits.memory_bytes()
        return int(mx.device_info()["memory_size"])

    def ranks(self) -> Ranks:
        return ranks.ranks()

    def compile(
        self,
        spec: ModelSpec,
        params: Mapping[str, NumpyArray] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
    ) -> MlxCompiled:
        place = self.device(device)
        dtype = "float32" if dtype == "auto" else dtype
        if dtype not in DTYPES or (dtype == "float64" and place == "gpu"):
            raise no_dtype(self.name, place, dtype)
        table = model.parameters(spec)
        first = initialise(table, 0) if params is None else params
        unit = mx.Device(mx.gpu if place == "gpu" else mx.cpu)
        ops = MlxOps(DTYPES[dtype])
        return MlxCompiled(spec, as_parameters(table, first, dtype), ops, unit, memory)
