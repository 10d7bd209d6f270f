"""What a backend owes the product: protocols, the same for every framework."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fwt.fwcore.analysis.trace import Trace
from fwt.fwcore.errors import BackendError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import NO_FLOAT16, ModelSpec
from fwt.fwcore.training.lockstep import Lockstep, Trainable
from fwt.fwcore.training.ranks import Ranks


class Stream(Protocol):
    """A core between two time steps; see `fwt.fwcore.model.Stream`."""

    def step(self, x: Any) -> Any:
        """The output of the next time step: the core's input (B, I) -> (B, R)."""
        ...

    def arrays(self) -> dict[str, Any]:
        """The state by name, such as `h` (B, R) and `A` (B, R, R)."""
        ...


class Compiled(Trainable, Protocol):
    """A model on one device: NumPy in, NumPy out. See `Trainable` for its training half.

    Attributes:
        spec: the model.
        module: the native object (`torch.nn.Module`, `mlx.nn.Module`, a dict for NumPy); its
            parameter names are the canonical ones.
    """

    spec: ModelSpec
    module: Any

    def forward(self, inputs: NumpyArray) -> NumpyArray:
        """Class scores: (B, T) or (B, T, I) -> (B, classes), in float32 or float64."""
        ...

    def states(
        self, x: NumpyArray, given: Mapping[str, NumpyArray] | None = None, first: int = 0
    ) -> tuple[NumpyArray, dict[str, NumpyArray]]:
        """The core alone, on its own input.

        Args:
            x: what the encoder would give, (B, T, I).
            given: start state by name; zeros where left out.
            first: number of the first time step.

        Returns:
            All outputs (B, T, R) and the arrays of the final state by name.
        """
        ...

    def trace(self, inputs: NumpyArray) -> Trace:
        """The forward pass of (B, T) or (B, T, I) with all that it read on the way.

        It runs the equations in the attention form, whatever the model runs otherwise.
        """
        ...

    def hidden_gradients(
        self, inputs: NumpyArray, outputs: NumpyArray, scores: NumpyArray
    ) -> NumpyArray:
        """The gradients for the hidden states, by every way they act.

        Args:
            inputs: int (B, T) or (B, T, features).
            outputs: the gradient of a number for the outputs, (T, B, R).
            scores: its gradient for the class scores, (B, classes).

        Returns:
            Its gradient for h(t) of every step, (T, B, R).

        Raises:
            BackendError: the backend has no autodiff.
            ConfigError: the core is not recurrent.
        """
        ...

    def stream(self, batch: int) -> Stream:
        """The core fed one time step at a time, on arrays of the framework, without gradients.

        Args:
            batch: B, sequences side by side.
        """
        ...

    def gradients(
        self, inputs: NumpyArray, targets: NumpyArray
    ) -> tuple[float, dict[str, NumpyArray]]:
        """The mean cross-entropy of a batch and its gradient for every parameter.

        Raises:
            BackendError: the backend has no autodiff.
        """
        ...

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        """Backend, device, dtype, and which forms and kernels run for B sequences of T steps.

        `threads` is how many the CPU computes with, on which the last bits depend; None on a GPU,
        and where the framework does not say.
        """
        ...


class Backend(Protocol):
    """A framework on this machine."""

    name: str

    def versions(self) -> dict[str, str]:
        """Library name -> version."""
        ...

    def devices(self) -> list[str]:
        """The names `compile` takes for `device` on this machine, the default first."""
        ...

    def fused(self) -> dict[str, str]:
        """What the fused core of each of `devices()` is written in; `none`, with why, if it is not.

        It covers the models of `fwt.fwcore.fused.uncovered`, and there not every number type.
        """
        ...

    def memory_bytes(self, device: str) -> int:
        """Bytes of memory that a device has in all."""
        ...

    def ranks(self) -> Ranks:
        """The processes that the framework's own launcher started for this job, connected.

        Raises:
            BackendError: another framework's launcher started them.
            ConfigError: a variable of a launcher has a value that cannot be.
            RankLostError: not all of them can be reached.
        """
        ...

    def compile(
        self,
        spec: ModelSpec,
        params: Mapping[str, NumpyArray] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
    ) -> Compiled:
        """A model ready to run.

        Args:
            spec: the model.
            params: canonical arrays by name; None draws the first weights of seed 0.
            device: a name of `devices()`, or `auto`, or `gpu`.
            dtype: `float32`, `float64` or `bfloat16`, see `TrainSpec.dtype`; `auto` is float32
                (float64 on NumPy).
            memory: a form of `fwt.fwcore.memory.FORMS`.

        Raises:
            BackendError: the device or the number type is not there.
            CheckpointError: params do not fit the spec, every difference named.
        """
        ...


class Population(Lockstep, Protocol):
    """P models of one shape on one device as one batched program. See `Lockstep` for the rest.

    Attributes:
        specs: the models.
    """

    specs: Sequence[ModelSpec]

    def describe(self, batch: int, steps: int) -> dict[str, Any]:
        """What `Compiled.describe` says of one of them, and how many there are: `members`."""
        ...


def no_dtype(backend: str, device: str, dtype: str) -> BackendError:
    """The error of `Backend.compile` for a number type that is not there: why, and what to take."""
    what = NO_FLOAT16 if dtype == "float16" else "take float32"
    return BackendError(f"backend {backend}: device {device} has no dtype={dtype!r}; {what}")


def compile_population(
    backend: Backend,
    specs: Sequence[ModelSpec],
    params: Sequence[Mapping[str, NumpyArray]],
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "auto",
) -> Population:
    """Models that are trained together; each backend has this function in its `population.py`.

    Args:
        backend: where.
        specs: the models, P of them; they may differ in decay and rate.
        params: of each of them, as for `Backend.compile`.
        device, dtype, memory: see `Backend.compile`.

    Raises:
        BackendError: the backend cannot train, or the device or the number type is not there.
        CheckpointError: params do not fit their spec, every difference named.
        ConfigError: the specs differ in more.
    """
    module = importlib.import_module(f"fwt.backends.{backend.name}.population")
    made: Population = module.compile_population(
        backend, specs, params, device=device, dtype=dtype, memory=memory
    )
    return made
