"""The ConvNet's first layer in C++ in place of eq. 1: outputs, ties and every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.cells import convnet as equations
from tests import cases
from tests.conftest import engine
from tests.loop_results import hold, loop_results

torch = pytest.importorskip("torch")

STEPS = 5
# (S pixels along a side, R, B, T): one window; fewer features than a register, a whole number of
# registers, some left over; more maxima than a word holds; several blocks of glimpses
SHAPES = [
    (3, 4, 2, 3),
    (5, 1, 1, 1),
    (7, 1, 3, 2),
    (7, 8, 1, 5),
    (7, 13, 5, 1),
    (7, 3, 50, 3),
    (9, 16, 2, 2),
    (10, 5, 2, 2),
    (28, 9, 2, 1),
]


def compiled(side: int, size: int, dtype: str) -> Any:
    spec = cases.core_only({"kind": "convnet", "size": size, "steps": STEPS}, side**2)
    params = cases.params_of(spec)
    for name in ("core.conv2.bias", "core.bias"):
        params[name] += 6  # every unit of the layers above passes gradients down
    return engine("torch", dtype).compile(spec, params)


def core_names(on: Any) -> list[str]:
    return [p.name for p in model.parameters(on.spec) if p.name.startswith("core.")]


def unroll() -> model.Unroll:
    from fwt.backends.torch.kernels import convnet

    return convnet.unroll


def pooled(*arrays: Any) -> Any:
    """The operator: pictures (N, S^2), K1 (R, 9), b1 (R) -> out."""
    from fwt.backends.torch.kernels.convnet import pooled_convolution

    return pooled_convolution(*arrays)[0]


def written(pictures: Any, weight: Any, bias: Any) -> Any:
    """The same by the equations."""
    from fwt.backends.torch.ops import TorchOps

    p = {"core.conv1.weight": weight.reshape(-1, 1, 3, 3), "core.conv1.bias": bias}
    ops = TorchOps(torch.device("cpu"), pictures.dtype)
    return equations.first_layer(ops, p, pictures[None])


def arrays(side: int, size: int, count: int, dtype: Any = None) -> list[Any]:
    """Pictures, K1 and b1 of small whole numbers, most pixels 0: many ties and no rounding."""
    drawn = np.random.default_rng(side + size)
    pictures = drawn.integers(0, 2, (count, side**2)) * drawn.integers(0, 2, (count, side**2))
    pictures[0] = 0
    pictures[-1] = 1
    weight, bias = drawn.integers(-1, 2, (size, 9)), drawn.integers(-1, 2, size)
    return [
        torch.tensor(array, dtype=dtype or torch.float64, requires_grad=True)
        for array in (pictures, weight, bias)
    ]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("side", "size", "batch", "time"), SHAPES)
def test_it_holds_the_equations(side: int, size: int, batch: int, time: int, dtype: str) -> None:
    on = compiled(side, size, dtype)
    x = cases.noise(1, batch, time, side**2)
    given = {"h": cases.noise(7, batch, size)}
    want, got = (loop_results(on, loop, x, given) for loop in (model.unroll, unroll()))
    hold(want, got, dtype)
    names = {name for name in want if name.startswith("gradient of ")}
    assert names == {f"gradient of {n}" for n in ("x", "start h", *core_names(on))}
    assert all(np.abs(want[name]).max() > 0 for name in names), "a gradient that shows nothing"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("side", "size", "batch", "time"), SHAPES)
def test_of_equals_the_same_one_wins(
    side: int, size: int, batch: int, time: int, dtype: str
) -> None:
    """Bit for bit: a black picture and a white one, and pictures of whole numbers."""
    given = arrays(side, size, batch * time + 2, getattr(torch, dtype))
    results = []
    for layer in (written, pooled):
        out = layer(*given)
        weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape) % 7 - 3
        results.append([out, *torch.autograd.grad((out * weights).sum(), given)])
    for name, want, got in zip(("out", "x", "K1", "b1"), *results, strict=True):
        assert torch.equal(want, got), name
    assert (results[0][0] == 0).any()
    assert (results[0][0] > 0).any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [1, 2])
def test_what_is_not_finite_is_passed_on(place: int, wrong: float) -> None:
    given = [array.detach() for array in arrays(7, 9, 3)]
    given[place].view(9, -1)[4, 0] = wrong
    want = written(*given)
    assert not torch.isfinite(want[..., 4]).all() or wrong < 0
    torch.testing.assert_close(pooled(*given), want, rtol=0, atol=0, equal_nan=True)


def test_many_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(7, 40, "float32")
    x, targets = cases.noise(1, 70, STEPS, 49), np.arange(70) % 2
    results = []
    for count in (1, 3):  # of ours; the framework's products may differ with theirs
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        gradients = made.gradients(x, targets)[1]
        own = [gradients[f"core.conv1.{name}"] for name in ("weight", "bias")]
        results.append([array.tobytes() for array in (made.states(x)[0], *own)])
    assert results[0] == results[1]
