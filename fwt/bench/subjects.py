"""Who is measured, and what a framework's side of the benchmark offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from fwt.backends.contract import Backend, Compiled
from fwt.bench.roofline import Ceilings
from fwt.bench.shapes import TRAIN
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON
from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.layers import encoder_outputs
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.training.batches import Split

OURS = ("auto", "matrix", "attention", "chunked")  # forms of our fast memory
OWN = ("lstm", "gru")  # the framework's own layers
NAIVE = "naive"

# name -> what it is
SUBJECTS: dict[str, str] = {
    **{form: f"our fast weights, memory={form}" for form in OURS},
    **{kind: f"the framework's own {kind.upper()}" for kind in OWN},
    NAIVE: "fast weights in matrix form, eager, as public implementations write them",
}

# canonical name -> the name in `naive`, whose source a reader should not have to decode
NAIVE_NAMES = {
    "core.w": "w",
    "core.c": "c",
    "core.norm.weight": "gain",
    "core.norm.bias": "bias",
    "head.output.weight": "head.weight",
    "head.output.bias": "head.bias",
}

if TYPE_CHECKING:
    from fwt.backends.mlx.backend import MlxBackend
    from fwt.backends.torch.backend import TorchBackend

FACTS = ("memory", "chunk", "kernel", "step")  # of `Compiled.describe`


@dataclass(frozen=True)
class Subject:
    """A network in one framework with its batch on the device. Calls do not wait for the device.

    Attributes:
        facts: which form and kernel run, and how a step is made.
        forward: class scores of the batch without a gradient, a native array (B, classes).
        train: one training step; what it gives back is for `statistics`.
        statistics: loss and, where the step computes it, the gradients' global norm.
        gradients: of the mean loss, by canonical name; none of a framework's own layers.
    """

    facts: dict[str, Any]
    forward: Callable[[], Any]
    train: Callable[[], Any]
    statistics: Callable[[Any], tuple[float, float | None]]
    gradients: Callable[[], Mapping[str, NumpyArray]]


class Streamer(Protocol):
    """A core that is fed one time step at a time."""

    def step(self, x: Any) -> Any:
        """The next time step: native x (B, I) -> native h (B, R)."""
        ...


class Framework(Protocol):
    """One framework on one device.

    Attributes:
        backend: its backend, for our own subjects.
        device: the full name of the device.
        peak_how: how peak memory is measured, or None where only a fresh process can tell.
    """

    backend: Backend
    device: str
    peak_how: str | None

    def facts(self) -> dict[str, Any]:
        """The device's name, threads, and what treatment the subjects get."""
        ...

    def subject(
        self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray], data: Split
    ) -> Subject:
        """A member of `SUBJECTS` on all of `data` as one batch."""
        ...

    def streamer(self, name: str, spec: ModelSpec, params: Mapping[str, NumpyArray]) -> Streamer:
        """The core of a member of `SUBJECTS` for one sequence."""
        ...

    def native(self, array: NumpyArray) -> Any:
        """A NumPy array on the device."""
        ...

    def numpy(self, value: Any) -> NumpyArray:
        """A native array as NumPy."""
        ...

    def wait(self, value: Any) -> None:
        """Return when `value`, and all work on the device, is done."""
        ...

    def ceilings(self) -> Ceilings:
        """The best of a few large matrix products and copies, in float32."""
        ...

    def allocated(self) -> int:
        """Bytes of arrays alive on the device."""
        ...

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        ...

    def peak(self) -> int:
        """The most bytes of arrays that were alive since `reset_peak`."""
        ...

    def release(self) -> None:
        """Give memory that is free back to the system."""
        ...


def check_name(name: str) -> str:
    """A subject's name. Raises ConfigError with the nearest one if there is none such."""
    if name not in SUBJECTS:
        raise ConfigError(f"--subject: unknown name {name!r} ({nearest(name, SUBJECTS)})")
    return name


def kind_of(name: str) -> str:
    """The kind of core that a subject is: what it must agree with."""
    return name if name in OWN else "fast-weights"


def naive_options(spec: ModelSpec) -> dict[str, Any]:
    """The arguments of both `Naive` classes: the numbers of a fast-weights spec."""
    core = spec.core.json_data()
    return {
        "inputs": encoder_outputs(spec.encoder),
        "size": core["size"],
        "classes": spec.head.classes,
        "inner_steps": core["inner_steps"],
        "decay": core["decay"],
        "rate": core["rate"],
        "epsilon": LAYER_NORM_EPSILON,
    }


def order_of(batch: int) -> NumpyArray:
    """The rows of every training step: all of the batch, the last first, so that they are taken."""
    return np.arange(batch, dtype=np.int64)[::-1].copy()


def ours(compiled: Compiled, data: Split, forward: Callable[[], Any]) -> Subject:
    """A subject that is the product: its own compiled model and training step."""
    rows = order_of(len(data))
    compiled.begin_training(TRAIN, data)
    told = compiled.describe(len(data), data.inputs.shape[1])

    def statistics(stats: Any) -> tuple[float, float | None]:
        loss, _, norm = compiled.fetch([stats])[0]
        return float(loss), float(norm)

    return Subject(
        facts={key: told[key] for key in FACTS if key in told},
        forward=forward,
        train=lambda: compiled.train_step(rows, TRAIN.lr, None),
        statistics=statistics,
        gradients=lambda: compiled.gradients(data.inputs, data.targets)[1],
    )


def framework(backend: Backend, device: str, threads: int | None) -> Framework:
    """The side of a backend. Its framework is imported here and not before.

    Args:
        backend: one that trains.
        device: see `Backend.compile`.
        threads: of the framework's operations; None leaves its own choice.

    Raises:
        BackendError: there is no such device.
        ConfigError: `threads` is given where the framework has no such setting.
    """
    if backend.name == "torch":
        from fwt.bench.torch_side import TorchSide

        return TorchSide(cast("TorchBackend", backend), device, threads)
    from fwt.bench.mlx_side import MlxSide

    return MlxSide(cast("MlxBackend", backend), device, threads)
