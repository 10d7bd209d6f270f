"""Feeding a core one time step at a time gives what feeding it whole sequences gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from tests import cases
from tests.cases import Engine
from tests.conftest import engine
from tests.tolerances import assert_close

SIZE, INPUTS, BATCH, TIME = 5, 4, 2, 7


def native(on: Engine, array: NumpyArray) -> Any:
    """An array of the backend's framework in the engine's number type."""
    kind = array.astype(on.dtype)
    if on.name == "torch":
        import torch

        return torch.from_numpy(kind)
    if on.name == "mlx":
        import mlx.core as mx

        return mx.array(kind, dtype=getattr(mx, on.dtype))
    return kind


@pytest.mark.parametrize("variant", cases.VARIANTS)
def test_steps_give_what_the_sequence_gives(variant: str, engine: Engine) -> None:
    inputs = cases.inputs_of(variant, INPUTS)
    spec = cases.core_only(cases.core_of(variant, SIZE), inputs)
    params, x = cases.params_of(spec), cases.noise(1, BATCH, TIME, inputs)
    form = "matrix" if spec.core.kind == "fast-weights" else "auto"
    want, final = engine.compile(spec, params, form).states(x)
    stream = engine.compile(spec, params).stream(BATCH)
    for t in range(TIME):
        got = np.asarray(stream.step(native(engine, x[:, t])))
        assert_close(f"h({t})", want[:, t], got, "outputs", engine.dtype, "self")
    for name, array in final.items():
        found = np.asarray(stream.arrays()[name])
        assert_close(name, array, found, "states", engine.dtype, "self")


def test_the_fused_stream_is_what_runs_on_the_cpu_of_torch() -> None:
    from fwt.backends.torch.kernels.fused.stream import FusedStream

    spec = cases.core_only(cases.core_of("fast-sum-final-boundary-S1-flat", SIZE), INPUTS)
    on = engine("torch", "float32")
    assert isinstance(on.compile(spec).stream(1), FusedStream)
    assert not isinstance(on.compile(spec, memory="matrix").stream(1), FusedStream)


@pytest.mark.parametrize("shape", [(1, INPUTS), (BATCH, INPUTS + 1), (INPUTS,)])
def test_the_fused_stream_names_a_wrong_input(shape: tuple[int, ...]) -> None:
    spec = cases.core_only(cases.core_of("fast-sum-final-boundary-S1-flat", SIZE), INPUTS)
    on = engine("torch", "float32")
    with pytest.raises(ConfigError, match=r"expected x of shape \(B, I\), B=2, I=4, got shape"):
        on.compile(spec).stream(BATCH).step(native(on, np.zeros(shape)))
