"""PyTorch's own LSTM in place of our equations: outputs, final states and every gradient."""

from __future__ import annotations

from typing import Any

import pytest

from fwt import backends
from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from tests import cases
from tests.conftest import need
from tests.tolerances import assert_close

SIZE, INPUTS = 6, 5


@pytest.fixture(autouse=True)
def torch_required() -> None:
    need("torch")


def compiled(dtype: str, **core: Any) -> Any:
    spec = cases.core_only({"kind": "lstm", "size": SIZE, **core}, INPUTS)
    return backends.load("torch").compile(spec, cases.params_of(spec), device="cpu", dtype=dtype)


def found(
    on: Any, loop: model.Unroll, x: NumpyArray, given: dict[str, NumpyArray]
) -> dict[str, NumpyArray]:
    """Outputs, final states, and the gradients of both for the input, the start and all weights."""
    import torch

    network = on.module
    seen, *start = (
        torch.tensor(array, dtype=network.ops.dtype, requires_grad=True)
        for array in (x, *given.values())
    )
    weights = {n: v for n, v in network.weights().items() if n.startswith("core.")}
    plan = model.memory_plan(network.spec, "auto", *x.shape[:2])
    named_start = dict(zip(given, start, strict=True))
    outputs, state = loop(network.ops, network.spec, weights, seen, plan, named_start)
    results = {"outputs": torch.stack(tuple(outputs), 1), **state.named()}
    total = sum(
        (r * torch.cos(torch.arange(r.numel()).view(r.shape))).sum() for r in results.values()
    )
    leaves = {"x": seen, **{f"start {n}": v for n, v in named_start.items()}, **weights}
    parts = torch.autograd.grad(total, list(leaves.values()))
    named = {f"gradient of {n}": part for n, part in zip(leaves, parts, strict=True)}
    return {n: v.detach().double().numpy() for n, v in (results | named).items()}


def hold(want: dict[str, NumpyArray], got: dict[str, NumpyArray], dtype: str) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        quantity = "gradients" if name.startswith("gradient") else "outputs"
        assert_close(name, array, got[name], quantity, dtype, "self")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("from_zeros", [True, False])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 7), (3, 11)])
def test_it_holds_the_equations(batch: int, time: int, from_zeros: bool, dtype: str) -> None:
    from fwt.backends.torch import native

    on = compiled(dtype)
    names = () if from_zeros else ("h", "c")
    given = {name: cases.noise(7 + i, batch, SIZE) for i, name in enumerate(names)}
    x = cases.noise(1, batch, time, INPUTS)
    want, got = (found(on, loop, x, given) for loop in (model.unroll, native.unroll))
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
    from fwt.backends.torch import native
    from fwt.backends.torch.module import time_loop

    on = compiled(dtype, **core)
    assert on.describe(2, 3)["kernel"] == kernel
    wanted = native.unroll if kernel != "none" else model.unroll
    assert time_loop(on.spec.core, on.module.ops, "auto") is wanted


def test_a_model_on_a_gpu_runs_the_equations() -> None:
    import torch

    from fwt.backends.torch import native
    from fwt.backends.torch.ops import TorchOps

    core = ModelSpec.parse(compiled("float32").spec.json_data(), "test").core
    assert native.covers(core, TorchOps(torch.device("cpu"), torch.float32))
    assert not native.covers(core, TorchOps(torch.device("meta"), torch.float32))
