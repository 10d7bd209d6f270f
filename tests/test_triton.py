"""The Triton kernels hold the cell's equations: every output, every gradient, every variant.

On a CUDA device the kernels run as they are. Elsewhere Triton's interpreter runs them, in a
process of its own, because it must be switched on before Triton is imported.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import memory
from fwt.fwcore.cells import fast_weights
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON
from fwt.fwcore.ops import NumpyArray
from tests.cases import PLANS, noise
from tests.not_finite import forms_of, hidden, results
from tests.operators import FAST
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this system"
)

ALL = 99  # a chunk longer than any sequence here


@dataclass(frozen=True)
class Case:
    """Sizes and variant; `limits` are the module's constants that cut a sequence into tiles."""

    plan: str = "flat"
    inner: int = 1
    norm: bool = True
    chunk: int = ALL
    size: int = 5
    steps: int = 5
    batch: int = 1
    members: int = 1
    limits: tuple[tuple[str, int], ...] = ()

    @property
    def spec(self) -> fast_weights.Spec:
        return fast_weights.Spec(
            size=self.size,
            norm="sum" if self.norm else "none",
            inner_steps=self.inner,
            trained=True,
            **PLANS[self.plan],
        )

    @property
    def which(self) -> list[int]:
        return [int(t in self.spec.integrate) for t in range(self.steps)]

    @property
    def stores(self) -> list[bool]:
        return [self.spec.store is None or t in self.spec.store for t in range(self.steps)]

    def inputs(self) -> dict[str, NumpyArray]:
        """Random arrays; a small rate where no norm keeps the numbers finite."""
        shape = (self.members, self.batch, self.steps, self.size)
        weights = 2 if self.spec.integrate else 1
        rate = [0.5, 0.3] if self.norm else [0.05, 0.02]
        return {
            "z": noise(1, *shape),
            "w": 0.4 * noise(2, self.members, weights, self.size, self.size),
            "gain": 1 + 0.3 * noise(3, self.members, self.size),
            "bias": 0.2 * noise(4, self.members, self.size),
            "decay": np.array([0.9, 0.7])[: self.members],
            "rate": np.array(rate)[: self.members],
            "grad": noise(5, *shape),
        }


BLOCKS = (("SHORT", 2), ("LONG", 2))  # several register tiles of time steps in a sequence
TILES = (("TILE_BYTES", 1024),)  # matrices in 4 or 8 tiles instead of one

CASES: dict[str, Case] = {
    **{f"S1-norm-{plan}-{chunk}": Case(plan, chunk=chunk) for plan in PLANS for chunk in (ALL, 2)},
    **{
        f"S1-plain-{plan}-{chunk}": Case(plan, norm=False, chunk=chunk)
        for plan in ("flat", "levels")
        for chunk in (ALL, 2)
    },
    "S3-norm-flat": Case(inner=3, batch=2, steps=4),
    "S3-norm-flat-2": Case(inner=3, chunk=2),
    "S3-norm-levels-2": Case("levels", inner=3, chunk=2),
    "S3-plain-levels": Case("levels", inner=3, norm=False, size=8),
    "S3-plain-store-3": Case("store", inner=3, norm=False, chunk=3),
    "S0-norm-levels": Case("levels", inner=0, batch=2),
    "S0-norm-flat-2": Case(inner=0, chunk=2),
    "S0-plain-wipe": Case("wipe", inner=0, norm=False),
    "one-step": Case(steps=1),
    "one-step-S3-plain": Case(inner=3, norm=False, steps=1, batch=2),
    "one-unit": Case(size=1, steps=3, batch=2),
    "one-unit-plain-2": Case(size=1, norm=False, chunk=2),
    "eight-units-2": Case(size=8, chunk=2, steps=3, batch=2),
    "members": Case("integrate", members=2, batch=2, steps=3),
    "members-S3-plain-2": Case("levels", members=2, inner=3, norm=False, chunk=2, steps=3),
    "blocks": Case(limits=BLOCKS),
    "blocks-S3": Case("store", inner=3, limits=BLOCKS, steps=3),
    "blocks-in-chunks": Case("store", chunk=3, steps=7, limits=BLOCKS),
    "tiles": Case("levels", size=17, steps=4, limits=TILES),
    "tiles-in-chunks": Case(size=17, chunk=2, limits=TILES),
}


# --- the kernels --------------------------------------------------------------------------


def run(case: Case, dtype: str, device: str) -> dict[str, NumpyArray]:
    """Both kernels on arrays of a case: what they give, by name, in float64."""
    from fwt.backends.torch.kernels.fused import cuda

    for name, value in case.limits:
        setattr(cuda, name, value)
    arrays = {
        name: torch.tensor(array, device=device, dtype=getattr(torch, dtype))
        for name, array in case.inputs().items()
    }
    which = torch.tensor(case.which, device=device)
    stores = torch.tensor(case.stores, device=device)
    options = (arrays["w"], which, stores, case.spec.wipe, case.inner, case.norm)
    normal = (arrays["gain"], arrays["bias"])
    rates = (arrays["decay"], arrays["rate"], case.chunk)
    saved = cuda.forward(arrays["z"], *options, *normal, *rates)
    found = cuda.backward(arrays["grad"], *saved, *options, *normal, *rates)
    names = ("out", "pre", "y", "rstd", "borders", "dz", "dgain", "dbias", "ddecay", "drate")
    return {
        name: value.cpu().double().numpy()
        for name, value in zip(names, (*saved, *found), strict=True)
    }


def fresh(case: Case, dtype: str, device: str) -> dict[str, NumpyArray]:
    """The same, with the module's constants put back afterwards."""
    from fwt.backends.torch.kernels.fused import cuda

    before = {name: getattr(cuda, name) for name, _ in case.limits}
    try:
        return run(case, dtype, device)
    finally:
        for name, value in before.items():
            setattr(cuda, name, value)


@pytest.fixture(scope="module")
def kernels() -> Iterator[Callable[[Case, str], dict[str, NumpyArray]]]:
    if torch.cuda.is_available():
        yield lambda case, dtype: fresh(case, dtype, "cuda")
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # the process starts, and inherits it
        yield lambda case, dtype: pool.submit(fresh, case, dtype, "cpu").result()


# --- the equations ------------------------------------------------------------------------


def _member(case: Case, arrays: dict[str, NumpyArray], p: int) -> dict[str, NumpyArray]:
    """One member's states, brackets, borders and gradients, from the cell over torch's autograd."""
    ops = TorchOps(torch.device("cpu"), torch.float64)
    leaf: Callable[[Any], torch.Tensor] = functools.partial(
        torch.tensor, dtype=torch.float64, requires_grad=True
    )
    decay, rate = arrays["decay"][p], arrays["rate"][p]
    z = leaf(arrays["z"][p])
    weights = {
        "core.w": leaf(arrays["w"][p, 0]),
        "core.w_int": leaf(arrays["w"][p, -1]),
        "core.norm.weight": leaf(arrays["gain"][p]),
        "core.norm.bias": leaf(arrays["bias"][p]),
        "core.decay_logit": leaf(np.log(decay / (1 - decay))),
        "core.log_rate": leaf(np.log(rate)),
    }
    plan = memory.plan("matrix", case.batch, case.steps, case.size, case.inner)
    state = fast_weights.start(ops, case.spec, weights, case.batch, plan, {})
    out, before, borders = [], [], []
    for t in range(case.steps):
        before.append(state.h)
        if t and t % case.chunk == 0:
            fast = state.memory.matrix()
            borders.append(ops.zeros((case.batch, case.size, case.size)) if fast is None else fast)
        state = fast_weights.step(ops, case.spec, weights, z[:, t], state, t)
        out.append(state.output)
    states = torch.stack(out, 1)
    loss = (states * torch.tensor(arrays["grad"][p])).sum()
    slow = [weights["core.w_int" if n else "core.w"] for n in case.which]
    pre = torch.stack([z[:, t] + before[t] @ slow[t].T for t in range(case.steps)], 1)
    wanted = [z, *weights.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    dz, dw, dw_int, dgain, dbias, dlogit, dlog = (each.detach().numpy() for each in found)
    return {
        "out": states.detach().numpy(),
        "pre": pre.detach().numpy(),
        "borders": np.array([border.detach().numpy() for border in borders]),
        "dz": dz,
        "dw": np.stack([dw, dw_int][: arrays["w"].shape[1]]),
        "dgain": dgain,
        "dbias": dbias,
        "ddecay": dlogit / (decay * (1 - decay)),
        "drate": dlog / rate,
    }


def wanted(case: Case) -> dict[str, NumpyArray]:
    """What the equations give, by name, one row a member."""
    arrays = case.inputs()
    members = [_member(case, arrays, p) for p in range(case.members)]
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def gradients(case: Case, got: dict[str, NumpyArray]) -> dict[str, NumpyArray]:
    """The sums over sequences and time steps that are left to the caller of the kernels."""
    before = np.zeros_like(got["out"])
    before[:, :, 1:] = got["out"][:, :, :-1]
    if case.spec.wipe:
        before[:, :, 1:][:, :, np.array(case.stores[:-1], bool)] = 0
    which = np.array(case.which)
    dw = [
        np.einsum("pbti,pbtj->pij", got["dz"][:, :, which == n], before[:, :, which == n])
        for n in range(2 if case.spec.integrate else 1)
    ]
    summed = {name: got[name].sum(1) for name in ("dgain", "dbias", "ddecay", "drate")}
    return {"dz": got["dz"], "dw": np.stack(dw, 1), **summed}


def hold(case: Case, got: dict[str, NumpyArray], dtype: str) -> None:
    want = wanted(case)
    for name in ("out", "pre"):
        assert_close(name, want[name], got[name], "outputs", dtype, "self")
    borders = np.moveaxis(got["borders"], 2, 1)
    if borders.size:
        assert_close("borders", want["borders"], borders, "states", dtype, "self", floor=1e-3)
    else:
        assert want["borders"].size == 0
    for name, found in gradients(case, got).items():
        assert_close(name, want[name], found, "gradients", dtype, "self", floor=1e-2)


# --- tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_kernels_hold_the_equations(name: str, kernels: Any) -> None:
    case = CASES[name]
    hold(case, kernels(case, "float64"), "float64")


@pytest.mark.parametrize("name", ["S1-norm-levels-2", "S3-plain-levels"])
def test_kernels_hold_the_equations_in_float32(name: str, kernels: Any) -> None:
    case = CASES[name]
    hold(case, kernels(case, "float32"), "float32")


@pytest.mark.parametrize("name", ["S3-norm-flat-2", "S0-norm-flat-2", "S3-plain-store-3"])
def test_saved_brackets_are_those_of_the_last_read(name: str, kernels: Any) -> None:
    case = CASES[name]
    got, arrays = kernels(case, "float64"), case.inputs()
    last = got["y"][:, :, -1]
    if case.norm:
        last = last * arrays["gain"][:, None, None] + arrays["bias"][:, None, None]
        variance = got["rstd"] ** -2.0 - LAYER_NORM_EPSILON
        spread = got["y"].var(-1) * (variance + LAYER_NORM_EPSILON)
        assert_close("rstd", spread, variance, "outputs", "float64", "self")
    assert_close("y", got["out"], np.maximum(last, 0), "outputs", "float64", "self")


# --- what is not a number, rates of 0, numbers of no matrix ---------------------------------


@dataclass(frozen=True)
class Spoiled(Case):
    """A case with numbers of its own: the name of an array and its first number."""

    spoiled: tuple[tuple[str, float], ...] = ()

    def inputs(self) -> dict[str, NumpyArray]:
        arrays = super().inputs()
        arrays["grad"] = noise(20, *arrays["z"].shape)  # the factors of `not_finite.results`
        for name, value in self.spoiled:
            arrays[name].flat[0] = value
        return arrays

    def operator(self) -> list[Any]:
        """The same as arguments of `fwt::fast_weights`."""
        a = {name: torch.tensor(array) for name, array in self.inputs().items()}
        which, stores = torch.tensor(self.which), torch.tensor(self.stores)
        first = [a["z"], a["w"], which, stores, self.spec.wipe, self.inner, self.norm]
        return [*first, a["gain"], a["bias"], a["decay"], a["rate"], self.chunk]


def by_place(case: Case, got: dict[str, NumpyArray]) -> dict[str, torch.Tensor]:
    """The kernels' results, named as `not_finite.results` does."""
    found = {"output 0": got["out"]}
    places = {0: "dz", 7: "dgain", 8: "dbias", 9: "ddecay", 10: "drate"}
    summed = gradients(case, got)
    found |= {f"gradient {place}": summed[name] for place, name in places.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("plan", "norm"), [("flat", True), ("store", False), ("levels", False)])
def test_what_is_not_a_number_is_not_hidden(
    plan: str, norm: bool, value: float, kernels: Any
) -> None:
    for name in ("z", "w", "gain", "bias", "decay", "rate"):
        spoiled = ((name, value),)
        case = Spoiled(plan, norm=norm, chunk=3, size=2, steps=4, limits=BLOCKS, spoiled=spoiled)
        hidden(name, forms_of(case.operator()), by_place(case, kernels(case, "float64")))


@pytest.mark.parametrize("chunk", [ALL, 2])
@pytest.mark.parametrize(("decay", "rate"), [(0, 0.5), (0.9, 0), (0, 0), (1, 0.5)])
def test_gradients_where_decay_or_rate_is_0_or_1(
    decay: float, rate: float, chunk: int, kernels: Any
) -> None:
    case = Spoiled(chunk=chunk, size=2, steps=4, spoiled=(("decay", decay), ("rate", rate)))
    want = results(FAST.equations, case.operator())
    for name, found in by_place(case, kernels(case, "float64")).items():
        assert_close(name, want[name], found, "gradients", "float64", "self", 1.0)


@dataclass(frozen=True)
class NoSuchMatrix(Case):
    @property
    def which(self) -> list[int]:
        return [0, 0, 7, 0, -(10**9)]


@pytest.mark.parametrize("plan", ["flat", "levels"])
def test_a_number_of_no_matrix_gives_none(plan: str, kernels: Any) -> None:
    """A device is not waited for to look at it: no memory beside is read, and the rest is NaN."""
    found = kernels(NoSuchMatrix(plan), "float64")["out"]
    assert np.isfinite(found[:, :, :2]).all()
    assert np.isnan(found[:, :, 2]).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("inner", [0, 1, 3])
def test_kernels_compile_for_a_gpu_that_is_not_here(
    inner: int, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter runs what the compiler refuses; sm_90 needs no device to compile for."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from fwt.backends.torch.kernels.fused import cuda

    kernel = getattr(cuda, f"{direction}_kernel")
    options = {
        "epsilon": 1e-5,
        "slow": 2,
        "size": 5,
        "inner": inner,
        "norm": inner != 3,
        "wipe": True,
        "bordered": inner > 0,
        "padded": 16,
        "tile": 8 if inner else 16,
        "block": 4,
        "span": 4 // max(inner, 1),
    }
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    kinds = {"which": "*i64", "stores": "*i1", "steps": "i32", "batch": "i32", "chunk": "i32"}
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "*fp32")
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constants)
    launch = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
    built = compile(source, target=GPUTarget("cuda", 90, 32), options=launch)
    assert "tf32" not in built.asm["ptx"]
