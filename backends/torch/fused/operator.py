"""The fused core as an operator of PyTorch: `fwt::fast_weights`, with its gradient and its vmap.

What a call is given (P members of a population, each with weights of its own; B sequences, T time
steps, R hidden units, N sets of slow weights, S inner steps; contiguous, of one floating type):

    z       (P, B, T, R)  the slow input C x(t)
    w       (P, N, R, R)  the slow weights: W, and W_int where steps integrate
    which   (T,) int64    which of the N a step uses
    stores  (T,) bool     whether h(t) is written into A after the step
    wipe                  whether h is zero for the step after a write
    inner                 S
    norm                  whether the bracket is layer-normalised, by gain and bias (P, R), epsilon
    decay, rate (P,)      lambda and eta
    chunk                 time steps between two borders; with T or more there are none

and what it gives: out (P, B, T, R), the states h(t) that the head sees and A stores, and `kept`,
what the gradient needs of the way there, laid out as the device's kernel likes. The gradient is
derived by hand and never builds A: within a chunk a later read gives to h(tau)
w [(h(tau).s) du + (h(tau).du) s], w = rate decay^(t-1-tau), and across a border G + G^T does,
G = dE/dA at the border.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd.function import once_differentiable
from torch.nn import functional

from backends.torch.fused import cpu


def _kernel(device: torch.device) -> ModuleType:
    """The module whose `empty`, `forward` and `backward` are for a device."""
    if device.type == "cuda":
        from backends.torch.fused import cuda

        return cuda
    return cpu


NAMESPACE = "fwt"
FORWARD, BACKWARD = f"{NAMESPACE}::fast_weights", f"{NAMESPACE}::fast_weights_backward"
library.define(
    FORWARD,
    "(Tensor z, Tensor w, Tensor which, Tensor stores, bool wipe, int inner, bool norm, "
    "Tensor gain, Tensor bias, float epsilon, Tensor decay, Tensor rate, int chunk) "
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


@library.impl(FORWARD, ("cpu", "cuda"))
def _forward(z: Tensor, *given: Any) -> tuple[Tensor, list[Tensor]]:
    out, *kept = _kernel(z.device).forward(z, *given)
    return out, kept


def _fake_forward(z: Tensor, *given: Any) -> tuple[Tensor, list[Tensor]]:
    out, *kept = _kernel(z.device).empty(z, inner=given[4], chunk=given[-1])
    return out, kept


@library.impl(BACKWARD, ("cpu", "cuda"))
def _backward(grad_out: Tensor, out: Tensor, kept: list[Tensor], *given: Any) -> tuple[Tensor, ...]:
    """Gradients of z, of gain and bias (P, R), and of decay and rate (P,)."""
    dz, *rest = _kernel(out.device).backward(grad_out, out, *kept, *given)
    return dz, *(part.sum(1) for part in rest)


def _fake_backward(grad_out: Tensor, *given: Any) -> tuple[Tensor, ...]:
    gain, bias, decay, rate = given[8:12]
    return tuple(torch.empty_like(part) for part in (grad_out, gain, bias, decay, rate))


class _Differentiable(torch.autograd.Function):
    """`fast_weights` with its gradient; that of w is one product over all steps."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        """Out, and what is kept."""
        with torch._C._AutoDispatchBelowAutograd():
            out, kept = fast_weights(*given)
        _, w, which, stores, wipe, inner, norm, gain, bias, _, decay, rate, chunk = given
        ctx.save_for_backward(out, w, which, stores, gain, bias, decay, rate, *kept)
        ctx.settings = wipe, inner, norm, chunk
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(
            False
        )  # else backward is given zeros the size of all that is kept
        return out, *kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of z, w, gain, bias, decay and rate, in the places of these."""
        if grad_out is None:
            return (None,) * 13
        out, w, which, stores, gain, bias, decay, rate, *kept = ctx.saved_tensors
        wipe, inner, norm, chunk = ctx.settings
        dz, dgain, dbias, ddecay, drate = fast_weights_backward(
            grad_out.contiguous(), out, kept, w, which, stores, wipe, inner, norm, gain, bias,
            decay, rate, chunk,
        )  # fmt: skip
        before = torch.empty_like(out)  # h as each step found it
        before[:, :, 0] = 0
        before[:, :, 1:] = out[:, :, :-1]
        if wipe:
            before = before * functional.pad(~stores[:-1], (1, 0))[:, None]
        slopes = [dz * (which == n)[:, None] for n in range(w.shape[1])] if w.shape[1] > 1 else [dz]
        dw = torch.stack([part.flatten(1, 2).mT @ before.flatten(1, 2) for part in slopes], 1)
        return dz, dw, *[None] * 5, dgain, dbias, None, ddecay, drate, None


def _autograd(*given: Any) -> tuple[Tensor, list[Tensor]]:
    """What autograd runs: nothing is kept where nothing is to be differentiated."""
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in given):
        out, *kept = _Differentiable.apply(*given)
        return out, kept
    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, list[Tensor]] = fast_weights(*given)
        return found


def _mapped(info: Any, batched: tuple[Any, ...], *given: Any) -> Any:
    """A mapped axis becomes a part of P, the axis of members with weights of their own."""

    def members(argument: Any, axis: int | None) -> Any:
        many = argument.movedim(axis, 0) if axis is not None else argument[None]
        return many.expand(info.batch_size, *many.shape[1:]).flatten(0, 1).contiguous()

    own = (0, 1, 7, 8, 10, 11)  # z, w, gain, bias, decay, rate
    flat = [members(a, batched[i]) if i in own else a for i, a in enumerate(given)]
    out, kept = fast_weights(*flat)
    result = [part.unflatten(0, (info.batch_size, -1)) for part in (out, *kept)]
    return (result[0], result[1:]), (0, [0] * len(kept))


library.register_fake(FORWARD, _fake_forward)
library.register_fake(BACKWARD, _fake_backward)
library.register_vmap(FORWARD, _mapped)
# `library.register_autograd` does the same for three times the overhead of a call
_FRAGMENT = vars(library)["Library"](NAMESPACE, "FRAGMENT")  # kept, or it would be undone
_FRAGMENT.impl("fast_weights", _autograd, "Autograd")
