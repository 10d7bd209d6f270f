"""What a time loop gives, and its gradients, held against what another loop gives."""

from __future__ import annotations

from typing import Any

from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from tests.tolerances import assert_close


def loop_results(
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
    results = {"outputs": torch.stack(tuple(outputs), 1), **state.arrays()}
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
