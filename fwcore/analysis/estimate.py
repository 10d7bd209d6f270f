"""How much memory a run needs, estimated before anything is allocated."""

from __future__ import annotations

from fwt.fwcore import layers, model, params
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.spec import ModelSpec, TrainSpec

COPIES = 4  # weights, gradients and Adam's two moments


def training_bytes(spec: ModelSpec, train: TrainSpec, steps: int, memory: str) -> int:
    """Bytes of weights, moments and what a training step of T time steps keeps for its gradient.

    An estimate within a factor of about two; it is made to catch what cannot fit, not to plan.
    """
    width = 8 if train.dtype == "float64" else 4
    batch, inputs = train.batch_size, layers.encoder_outputs(spec.encoder)
    weights = COPIES * params.count(model.parameters(spec))
    activations = batch * steps * (inputs + spec.core.kept(inputs))
    fast = 0.0
    if spec.core.memory_reads:
        fast = model.memory_plan(spec, memory, batch, steps).bytes / 4
    return round(width * (weights + activations + fast))


def check_memory(needed: int, available: int, where: str) -> None:
    """Refuse what cannot fit.

    Args:
        needed, available: bytes.
        where: the device, for the error line.

    Raises:
        ConfigError: more is needed than the device has.
    """
    if needed > available:
        raise ConfigError(
            f"memory: the run needs about {needed / 2**30:.1f} GiB, {where} has "
            f"{available / 2**30:.1f} GiB; take a smaller --batch-size or --size, "
            "fewer examples, or --memory chunked"
        )
