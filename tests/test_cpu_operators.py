"""The operators in C++ of the A-LSTM and the ConvNet: what PyTorch asks of one, where they run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import compile_population
from fwt.fwcore import model
from tests import cases
from tests.conftest import engine
from tests.loop_results import hold

torch = pytest.importorskip("torch")

INPUTS, SIZE, STEPS = 49, 6, 5
KINDS = ["alstm", "convnet"]  # names of cells, and of modules of backends.torch
OPERATORS = {"alstm": "associate", "convnet": "pooled_convolution"}
HALF, COPIES = 3, 2

both = pytest.mark.parametrize("kind", KINDS)


def module(kind: str) -> Any:
    return import_module(f"fwt.backends.torch.kernels.{kind}")


def compiled(kind: str, dtype: str) -> Any:
    steps = {"steps": STEPS} if kind == "convnet" else {}
    spec = cases.core_only({"kind": kind, "size": SIZE, **steps}, INPUTS)
    return engine("torch", dtype).compile(spec, cases.params_of(spec))


def distinct(kind: str, seed: int = 0) -> list[Any]:
    """Arguments of an operator in float64 without ties; those that have gradients want one."""
    memories = (2, COPIES, HALF)
    shapes = {
        "alstm": [(2, 9 * HALF), memories, memories],
        "convnet": [(2, 25), (3, 9), (3,)],
    }[kind]
    return [
        torch.from_numpy(cases.noise(seed + i, *shape)).requires_grad_()
        for i, shape in enumerate(shapes)
    ]


def results(kind: str, *given: Any) -> tuple[Any, ...]:
    """What the operator gives and has a gradient."""
    found = getattr(module(kind), OPERATORS[kind])(*given)
    return tuple(found[: 3 if kind == "alstm" else 1])


@both
def test_gradcheck(kind: str) -> None:
    given = distinct(kind)
    free = [array for array in given if array.requires_grad]
    fixed = given[len(free) :]
    assert torch.autograd.gradcheck(lambda *arrays: results(kind, *arrays, *fixed), free)


@both
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of opcheck's own copies
def test_opcheck(kind: str) -> None:
    from torch import library

    operator = getattr(module(kind), OPERATORS[kind])
    given = distinct(kind)
    assert set(library.opcheck(operator, given).values()) == {"SUCCESS"}


def test_opcheck_of_the_gradients() -> None:
    from torch import library

    plain = {kind: [array.detach() for array in distinct(kind)] for kind in KINDS}
    pre, real, imag = plain["alstm"]
    h, *c, gates = module("alstm").associate(*plain["alstm"])
    ones = [torch.ones_like(array) for array in (h, *c)]
    calls = [(module("alstm").associate_backward, [*ones, pre, gates, real, imag, *c])]
    pictures, weight, _ = plain["convnet"]
    out, winners = module("convnet").pooled_convolution(*plain["convnet"])
    for seen in (False, True):
        given = [torch.ones_like(out), pictures, weight, winners, seen]
        calls.append((module("convnet").pooled_convolution_backward, given))
    for operator, given in calls:
        assert set(library.opcheck(operator, given).values()) == {"SUCCESS"}


@both
@pytest.mark.parametrize("shared", [False, True])
def test_vmap_is_the_members_one_by_one(kind: str, shared: bool) -> None:
    members = [distinct(kind), distinct(kind, 50)]
    given = [torch.stack([member[i] for member in members]) for i in range(3)]
    rest = members[0][3:]
    if shared:
        given[0] = given[0][1]
    axes = (None if shared else 0, 0, 0, *[None for _ in rest])
    got = torch.func.vmap(lambda *arrays: results(kind, *arrays), in_dims=axes)(*given, *rest)
    alone = [
        results(kind, given[0] if shared else given[0][i], given[1][i], given[2][i], *rest)
        for i in (0, 1)
    ]
    leaves = [array for member in members for array in member[1:3]]
    for place, array in enumerate(got):
        want = torch.stack([member[place] for member in alone])
        assert torch.equal(want, array)
        weights = torch.from_numpy(cases.noise(7, *want.shape))
        gradients = [
            torch.autograd.grad((found * weights).sum(), leaves, retain_graph=True)
            for found in (want, array)
        ]
        for a, b in zip(*gradients, strict=True):
            assert torch.equal(a, b)


# --- the choice ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("dtype", "kernel"), [("float32", "C++"), ("float64", "C++"), ("bfloat16", "none")]
)
def test_where_it_runs_is_said(
    kind: str, dtype: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = getattr(module(kind), OPERATORS[kind])
    monkeypatch.setattr(module(kind), OPERATORS[kind], lambda *a: calls.append(1) or run(*a))
    made = compiled(kind, dtype)
    x = cases.noise(1, 2, 3, INPUTS)
    assert made.describe(2, 3)["kernel"] == kernel
    made.forward(x)
    made.states(x)
    made.gradients(x, np.array([0, 1]))
    per_pass = {"alstm": 3, "convnet": 1}[kind]  # a call for each time step, or for all of them
    assert len(calls) == (3 * per_pass if kernel == "C++" else 0)


@both
@pytest.mark.parametrize("broken", [{"find_spec": lambda name: None}, {"LEAST": ("AVX9",)}])
def test_without_the_library_the_equations_run_and_it_is_said(
    kind: str, broken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwt.backends.torch.kernels import library

    x = cases.noise(1, 2, 3, INPUTS)
    want = compiled(kind, "float64").states(x)[0]
    if "LEAST" in broken:
        monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
    for name, value in broken.items():
        monkeypatch.setattr(library, name, value)
    made = compiled(kind, "float64")
    assert made.describe(2, 3)["kernel"] == "none"
    hold({"outputs": want}, {"outputs": made.states(x)[0]}, "float64")


@pytest.mark.parametrize(
    ("kind", "kernel"), [("alstm", "C++"), ("convnet", "C++"), ("gru", "none")]
)
def test_a_population_runs_what_its_members_run(kind: str, kernel: str) -> None:
    steps = {"steps": STEPS} if kind == "convnet" else {}
    spec = cases.core_only({"kind": kind, "size": SIZE, **steps}, INPUTS)
    params = cases.params_of(spec)
    made = compile_population(engine("torch", "float32").backend, [spec] * 2, [params] * 2)
    assert made.describe(2, 3)["kernel"] == kernel


@both
def test_a_model_on_a_gpu_runs_the_equations(kind: str) -> None:
    from fwt.backends.torch.ops import TorchOps

    made = compiled(kind, "float32")
    assert module(kind).covers(made.spec.core, TorchOps(torch.device("cpu"), torch.float32))
    assert not module(kind).covers(made.spec.core, TorchOps(torch.device("meta"), torch.float32))
    other = compiled(KINDS[1 - KINDS.index(kind)], "float32").spec.core
    assert not module(kind).covers(other, TorchOps(torch.device("cpu"), torch.float32))


@both
def test_a_state_that_is_handed_on_goes_on(kind: str) -> None:
    made = compiled(kind, "float64")
    x = cases.noise(1, 3, STEPS, INPUTS)
    whole, final = made.states(x)
    half, between = made.states(x[:, :2])
    rest, end = made.states(x[:, 2:], between, 2)
    assert end.keys() == final.keys()
    hold(
        {"outputs": whole, **final}, {"outputs": np.concatenate([half, rest], 1), **end}, "float64"
    )


@both
def test_the_time_loop_is_the_override(kind: str) -> None:
    from fwt.backends.torch.kernels import kernel_of

    made = compiled(kind, "float32")
    assert kernel_of(made.spec.core, made.module.ops, "auto").unroll is module(kind).unroll
    assert module(kind).unroll is not model.unroll
