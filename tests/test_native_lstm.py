"""PyTorch's own LSTM in place of our equations: outputs, final states and every gradient."""

from __future__ import annotations

from typing import Any

import pytest

from fwt import backends
from fwt.fwcore import model
from fwt.fwcore.spec import ModelSpec
from tests import cases
from tests.conftest import need
from tests.loop_results import hold, loop_results

SIZE, INPUTS = 6, 5


@pytest.fixture(autouse=True)
def torch_required() -> None:
    need("torch")


def compiled(dtype: str, **core: Any) -> Any:
    spec = cases.core_only({"kind": "lstm", "size": SIZE, **core}, INPUTS)
    return backends.load("torch").compile(spec, cases.params_of(spec), device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("from_zeros", [True, False])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 7), (3, 11)])
def test_it_holds_the_equations(batch: int, time: int, from_zeros: bool, dtype: str) -> None:
    from fwt.backends.torch.kernels import lstm

    on = compiled(dtype)
    names = () if from_zeros else ("h", "c")
    given = {name: cases.noise(7 + i, batch, SIZE) for i, name in enumerate(names)}
    x = cases.noise(1, batch, time, INPUTS)
    want, got = (loop_results(on, loop, x, given) for loop in (model.unroll, lstm.unroll))
    hold(want, got, dtype)


@pytest.mark.parametrize(
    ("core", "dtype", "kernel"),
    [
        ({}, "float32", "torch.lstm"),
        ({}, "float64", "torch.lstm"),
        ({}, "bfloat16", "none"),
        ({"norm": "layer"}, "float32", "none"),
        ({"kind": "gru"}, "float32", "none"),
    ],
)
def test_where_it_runs_is_said(core: dict[str, Any], dtype: str, kernel: str) -> None:
    from fwt.backends.torch.kernels import kernel_of, lstm

    on = compiled(dtype, **core)
    assert on.describe(2, 3)["kernel"] == kernel
    wanted = lstm.unroll if kernel != "none" else model.unroll
    assert kernel_of(on.spec.core, on.module.ops, "auto").unroll is wanted


def test_a_model_on_a_gpu_runs_the_equations() -> None:
    import torch

    from fwt.backends.torch.kernels import lstm
    from fwt.backends.torch.ops import TorchOps

    core = ModelSpec.parse(compiled("float32").spec.json_data(), "test").core
    assert lstm.covers(core, TorchOps(torch.device("cpu"), torch.float32))
    assert not lstm.covers(core, TorchOps(torch.device("meta"), torch.float32))
