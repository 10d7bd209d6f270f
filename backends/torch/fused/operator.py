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
from torch import Tensor
from torch.nn import functional

from backends.torch.fused import cpu


def _kernel(device: torch.device) -> ModuleType:
    """The module whose `empty`, `forward` and `backward` are for a device."""
    if device.type == "cuda":
        from backends.torch.fused import cuda

        return cuda
    return cpu


@torch.library.custom_op("fwt::fast_weights", mutates_args=())
def fast_weights(
    z: Tensor,
    w: Tensor,
    which: Tensor,
    stores: Tensor,
    wipe: bool,
    inner: int,
    norm: bool,
    gain: Tensor,
    bias: Tensor,
    epsilon: float,
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> tuple[Tensor, list[Tensor]]:
    """All states of all sequences; see the head of this file. Gives `out` and `kept`."""
    out, *kept = _kernel(z.device).forward(
        z, w, which, stores, wipe, inner, norm, gain, bias, epsilon, decay, rate, chunk
    )
    return out, kept


@fast_weights.register_fake
def _(z: Tensor, *given: Any) -> tuple[Tensor, list[Tensor]]:
    out, *kept = _kernel(z.device).empty(z, inner=given[4], chunk=given[-1])
    return out, kept


@torch.library.custom_op("fwt::fast_weights_backward", mutates_args=())
def fast_weights_backward(
    grad_out: Tensor,
    out: Tensor,
    kept: list[Tensor],
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, of gain and bias (P, R), and of decay and rate (P,), summed over B."""
    found = _kernel(out.device).backward(
        grad_out, out, *kept, w, which, stores, wipe, inner, norm, gain, bias, decay, rate, chunk
    )
    dz, *rest = found
    sums = [part.sum(1) for part in rest]
    return dz, sums[0], sums[1], sums[2], sums[3]


@fast_weights_backward.register_fake
def _(grad_out: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gain, bias, decay, rate = given[8:12]
    like = torch.empty_like
    return like(grad_out), like(gain), like(bias), like(decay), like(rate)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    _, w, which, stores, wipe, inner, norm, gain, bias, _, decay, rate, chunk = inputs
    out, kept = output
    ctx.save_for_backward(out, w, which, stores, gain, bias, decay, rate, *kept)
    ctx.settings = wipe, inner, norm, chunk


def _differentiate(ctx: Any, grad_out: Tensor, _: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of `fast_weights`; that of w is one product over all steps."""
    out, w, which, stores, gain, bias, decay, rate, *kept = ctx.saved_tensors
    wipe, inner, norm, chunk = ctx.settings
    dz, dgain, dbias, ddecay, drate = fast_weights_backward(
        grad_out.contiguous(),
        out,
        kept,
        w,
        which,
        stores,
        wipe,
        inner,
        norm,
        gain,
        bias,
        decay,
        rate,
        chunk,
    )
    before = functional.pad(out[:, :, :-1], (0, 0, 1, 0))  # h as each step found it
    if wipe:
        before = before * functional.pad(~stores[:-1], (1, 0))[:, None]
    slopes = [dz * (which == n)[:, None] for n in range(w.shape[1])] if w.shape[1] > 1 else [dz]
    dw = torch.stack([part.flatten(1, 2).mT @ before.flatten(1, 2) for part in slopes], 1)
    none = (None,) * 5
    return dz, dw, *none, dgain, dbias, None, ddecay, drate, None


fast_weights.register_autograd(_differentiate, setup_context=_remember)


@fast_weights.register_vmap
def _(info: Any, batched: tuple[Any, ...], *given: Any) -> Any:
    """A mapped axis becomes a part of P, the axis of members with weights of their own."""

    def members(argument: Any, axis: int | None) -> Any:
        many = argument.movedim(axis, 0) if axis is not None else argument[None]
        return many.expand(info.batch_size, *many.shape[1:]).flatten(0, 1).contiguous()

    own = (0, 1, 7, 8, 10, 11)  # z, w, gain, bias, decay, rate
    flat = [members(a, batched[i]) if i in own else a for i, a in enumerate(given)]
    out, kept = fast_weights(*flat)
    result = [part.unflatten(0, (info.batch_size, -1)) for part in (out, *kept)]
    return (result[0], result[1:]), (0, [0] * len(kept))
