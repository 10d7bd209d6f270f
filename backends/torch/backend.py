"""PyTorch on this machine: its devices, their memory, and models compiled for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fwt.backends.contract import no_dtype
from fwt.backends.torch import kernels, ranks
from fwt.backends.torch.compiled import TorchCompiled
from fwt.backends.torch.ops import TorchOps
from fwt.backends.torch.precision import MODES
from fwt.fwcore import limits, model
from fwt.fwcore.errors import BackendError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import as_parameters, initialise
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.training import launcher
from fwt.fwcore.training.ranks import Ranks

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class TorchBackend:
    """`fwt.backends.contract.Backend` for PyTorch; `precision` as `fwt.backends.load` has it."""

    name = "torch"

    def __init__(self, precision: str = "highest") -> None:
        self._precision = MODES[precision]

    def versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__)}

    def devices(self) -> list[str]:
        """CUDA cards first, then the CPU, then MPS."""
        cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        return cards + ["cpu"] + (["mps"] if torch.backends.mps.is_available() else [])

    def fused(self) -> dict[str, str]:
        return {device: kernels.fused_on(device) for device in self.devices()}

    def device(self, name: str) -> str:
        """A device's full name: `auto`, `gpu` and `cuda` mean the first that fits.

        Of processes that torchrun started on one machine, each takes a card of its own.

        Raises:
            BackendError: there is no such device here.
        """
        known = self.devices()
        fits = {
            "auto": known,
            "gpu": [device for device in known if device != "cpu"],
            "cuda": [device for device in known if device.startswith("cuda")],
        }.get(name, [device for device in known if device == name])
        if not fits:
            raise BackendError(
                f"backend torch: no device {name!r} on this machine; there are: {', '.join(known)}"
            )
        cards = [device for device in fits if device.startswith("cuda")]
        return cards[launcher.torchrun().local % len(cards)] if cards else fits[0]

    def memory_bytes(self, device: str) -> int:
        name = self.device(device)
        if name.startswith("cuda"):
            return int(torch.cuda.get_device_properties(name).total_memory)
        return limits.memory_bytes()

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
    ) -> TorchCompiled:
        place = self.device(device)
        dtype = "float32" if dtype == "auto" else dtype
        if dtype not in DTYPES or (dtype == "float64" and place == "mps"):
            raise no_dtype(self.name, place, dtype)
        ops = TorchOps(torch.device(place), DTYPES[dtype], self._precision)
        table = model.parameters(spec)
        first = initialise(table, 0) if params is None else params
        return TorchCompiled(spec, as_parameters(table, first, dtype), ops, memory)
