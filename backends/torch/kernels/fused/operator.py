"""The fused core as an operator of PyTorch: `fwt::fast_weights`, with its derivatives and vmap.

What a call is given (P members of a population, each with weights of its own; B sequences, T time
steps, R hidden units, N sets of slow weights, S inner steps; contiguous, of one floating type):

    z       (P, B, T, R)  the slow input C x(t)
    w       (P, N, R, R)  the slow weights: W, and W_int where steps integrate
    which   (T,) int64    which of the N a step uses
    stores  (T,) bool     whether h(t) is written into A after the step
    wipe                  whether h is zero for the step after a write
    inner                 S
    norm                  whether the bracket is layer-normalised, by gain and bias (P, R)
    decay, rate (P,)      lambda and eta
    chunk                 time steps between two borders; with T or more there are none

and what it gives: out (P, B, T, R), the states h(t) that the head sees and A stores, and `kept`,
what the gradient needs of the way there, laid out as the device's kernel likes. The gradient is
derived by hand and never builds A: within a chunk a later read gives to h(tau)
w [(h(tau).s) du + (h(tau).du) s], w = rate decay^(t-1-tau), and across a border G + G^T does,
G = dE/dA at the border.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, library

from fwt.backends.torch.kernels.arguments import Array, Table, Whole
from fwt.backends.torch.kernels.derivatives import Gradients, Rule, refuse, register
from fwt.backends.torch.kernels.fused import cpu
from fwt.backends.torch.kernels.fused.kept import SIZES, empty
from fwt.backends.torch.kernels.mapped import as_members
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore import memory
from fwt.fwcore.cells import fast_weights as cell


def _kernel(device: torch.device) -> ModuleType:
    """The module whose `KEPT`, `forward` and `backward` are for a device."""
    if device.type == "cuda":
        from fwt.backends.torch.kernels.fused import cuda

        return cuda
    return cpu


FORWARD, BACKWARD = "fwt::fast_weights", "fwt::fast_weights_backward"
library.define(
    FORWARD,
    "(Tensor z, Tensor w, Tensor which, Tensor stores, bool wipe, int inner, bool norm, "
    "Tensor gain, Tensor bias, Tensor decay, Tensor rate, int chunk) "
    "-> (Tensor out, Tensor[] kept)",
)
library.define(
    BACKWARD,
    "(Tensor grad_out, Tensor out, Tensor[] kept, Tensor w, Tensor which, Tensor stores, "
    "bool wipe, int inner, bool norm, Tensor gain, Tensor bias, Tensor decay, Tensor rate, "
    "int chunk) -> (Tensor dz, Tensor dgain, Tensor dbias, Tensor ddecay, Tensor drate)",
)
fast_weights = torch.ops.fwt.fast_weights.default
fast_weights_backward = torch.ops.fwt.fast_weights_backward.default

SHARED = {
    "w": Array("P N R R"),
    "which": Array("T", torch.int64, below="N"),
    "stores": Array("T", torch.bool),
    "wipe": None,
    "inner": Whole(0, 1000),
    "norm": None,
    "gain": Array("P R"),
    "bias": Array("P R"),
    "decay": Array("P"),
    "rate": Array("P"),
    "chunk": Whole(1, 10**15),
}
# places of the arrays with an axis of members
OWN, OWN_BACKWARD = (0, 1, 7, 8, 9, 10), (0, 1, 2, 3, 9, 10, 11, 12)
TABLE = Table(FORWARD, {"z": Array("P B T R"), **SHARED})


@cache
def _table(kernel: ModuleType) -> Table:
    """The arguments of the backward operator, with what a device's kernel kept."""
    states = {"grad_out": Array("P B T R"), "out": Array("P B T R")}
    kept = {name: Array(axes) for name, axes in kernel.KEPT.items()}
    return Table(BACKWARD, {**states, **kept, **SHARED}, SIZES)


@library.impl(FORWARD, ("cpu", "cuda"))
def _forward(*given: Any) -> tuple[Tensor, list[Tensor]]:
    out, *kept = _kernel(given[0].device).forward(*TABLE.check(*given))
    return out, kept


def _fake_forward(z: Tensor, *given: Any) -> tuple[Tensor, list[Tensor]]:
    kept = empty(_kernel(z.device).KEPT, z, inner=given[4], chunk=given[-1])
    return torch.empty_like(z), kept


@library.impl(BACKWARD, ("cpu", "cuda"))
def _backward(grad_out: Tensor, out: Tensor, kept: list[Tensor], *given: Any) -> tuple[Tensor, ...]:
    """Gradients of z, of gain and bias (P, R), and of decay and rate (P,)."""
    kernel = _kernel(grad_out.device)
    solid = _table(kernel).check(grad_out, out, *kept, *given)
    dz, *rest = kernel.backward(*solid)
    return dz, *(part.sum(1) for part in rest)


def _fake_backward(grad_out: Tensor, *given: Any) -> tuple[Tensor, ...]:
    gain, bias, decay, rate = given[8:12]
    return tuple(torch.empty_like(part) for part in (grad_out, gain, bias, decay, rate))


def _run(*given: Any) -> tuple[Tensor, ...]:
    out, kept = fast_weights(*given)
    return out, *kept


def _equations(
    z: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> tuple[Tensor]:
    """The states, by `fwt.fwcore.cells.fast_weights`, with A as it is written."""
    members, batch, steps, size = z.shape
    ops, slow = TorchOps(z.device, z.dtype), which.tolist()
    spec = cell.Spec(
        size=size,
        inner_steps=inner,
        norm="sum" if norm else "none",
        wipe=wipe,
        store=tuple(stores.nonzero().flatten().tolist()),
    )
    plan = memory.plan("matrix", batch, steps, size, inner)
    outputs = []
    for m in range(members):
        p = {"core.norm.weight": gain[m], "core.norm.bias": bias[m]}
        p |= {"core.decay": decay[m], "core.rate": rate[m]}
        state = cell.start(ops, spec, p, batch, plan, {})
        for t in range(steps):
            state = cell.step(ops, spec, {**p, "core.w": w[m, slow[t]]}, z[m, :, t], state, t)
            outputs.append(state.output)
    return (torch.stack(outputs, 1).reshape(batch, members, steps, size).movedim(1, 0),)


def _product(dz: Tensor, before: Tensor, which: Tensor, n: int, w: Tensor) -> Tensor:
    """The gradient of the slow weights number n, over the steps that use them, (P, R, R)."""
    if w.shape[1] > 1:  # zeros on both sides: 0 times infinity is not 0
        others = (which != n)[:, None]
        dz, before = dz.masked_fill(others, 0), before.masked_fill(others, 0)
    return dz.flatten(1, 2).mT @ before.flatten(1, 2)


def _gradient(given: Any, results: Any, slopes: Any, wanted: Any) -> Gradients:
    """By the backward operator; that of w is one product over all steps."""
    _, *settings = given
    w, which, stores, wipe = settings[:4]
    (out, *kept), (grad_out,) = results, slopes
    dz, *rest = fast_weights_backward(grad_out, out, kept, *settings)
    before = torch.zeros_like(out)  # h as each step found it
    before[:, :, 1:] = out[:, :, :-1]
    if wipe:
        before[:, :, 1:].masked_fill_(stores[:-1, None], 0)
    dw = torch.stack([_product(dz, before, which, n, w) for n in range(w.shape[1])], 1)
    return dz, dw, *[None] * 5, *rest, None


def _mapped(info: Any, batched: tuple[Any, ...], *given: Any) -> Any:
    """A mapped axis becomes a part of P, the axis of members with weights of their own."""
    out, kept = fast_weights(*as_members(info, batched, given, OWN))
    results = [part.unflatten(0, (info.batch_size, -1)) for part in (out, *kept)]
    return (results[0], results[1:]), (0, [0] * len(kept))


def _mapped_backward(info: Any, batched: tuple[Any, ...], *given: Any) -> Any:
    """The same of the gradients."""
    found = fast_weights_backward(*as_members(info, batched, given, OWN_BACKWARD))
    results = tuple(part.unflatten(0, (info.batch_size, -1)) for part in found)
    return results, (0,) * len(results)


library.register_fake(FORWARD, _fake_forward)
library.register_fake(BACKWARD, _fake_backward)
library.register_vmap(FORWARD, _mapped)
library.register_vmap(BACKWARD, _mapped_backward)
register("fast_weights", Rule(1, _run, _equations, _gradient), lambda a: (a[0], list(a[1:])))
refuse("fast_weights_backward", "fast_weights")
