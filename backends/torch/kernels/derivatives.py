"""Derivatives of an operator: its gradient by a backward operator, all others by its equations.

Reverse mode, asked for once, is what a backward operator computes. Forward mode, gradients of
gradients and the transforms of `torch.func` need more than one pass back: they get the operator's
equations in torch's own operations, which have derivatives of every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, library
from torch.autograd import forward_ad

from fwt.fwcore.errors import ConfigError

# kept, or the registrations would be undone; `library.register_autograd` does the same for three
# times the overhead of a call, and makes every tangent 0
_FRAGMENT = vars(library)["Library"]("fwt", "FRAGMENT")

Gradients = Sequence[Tensor | None]


class Rule(NamedTuple):
    """What the derivatives of an operator are made of.

    Attributes:
        shown: how many of the results have a derivative; they come first.
        run: the operator without autograd; its results as a flat tuple.
        equations: those that have a derivative, in torch's own operations.
        gradient: from the operator's arguments, its results, the gradients of those that have one
            (zeros where nothing came) and whether each argument wants one -> one an argument.
    """

    shown: int
    run: Callable[..., tuple[Tensor, ...]]
    equations: Callable[..., tuple[Tensor, ...]]
    gradient: Callable[
        [Sequence[Any], Sequence[Tensor], Sequence[Tensor], Sequence[bool]], Gradients
    ]

    def by_equations(
        self, given: Sequence[Any], slopes: Sequence[Tensor], wanted: Sequence[bool]
    ) -> Gradients:
        """`gradient` by the equations, itself differentiable where grad mode is on."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # views, so that a gradient ends at the operator's own arguments
            own = [a.view_as(a) if want else a for a, want in zip(given, wanted, strict=True)]
            pairs = zip(self.equations(*own), slopes, strict=True)
            outputs, outer = zip(*(p for p in pairs if p[0].requires_grad), strict=True)
            leaves = [a for a, want in zip(own, wanted, strict=True) if want]
            found = iter(
                torch.autograd.grad(outputs, leaves, outer, create_graph=again, allow_unused=True)
            )
        return [next(found) if want else None for want in wanted]


def register(name: str, rule: Rule, pack: Callable[[tuple[Tensor, ...]], Any] = tuple) -> None:
    """Give the operator `fwt::name` its derivatives; `pack` makes its results of the flat tuple."""

    def differentiate(*given: Any) -> Any:
        tensors = [a for a in given if isinstance(a, Tensor)]
        wanted = _wanted(tensors)
        if _has_tangent(tensors) or (wanted and torch._C._are_functorch_transforms_active()):
            first = rule.equations(*given)
            with torch._C._AutoDispatchBelowAutograd():
                return pack((*first, *rule.run(*given)[rule.shown :]))
        if wanted:
            return pack(_Differentiable.apply(rule, *given))
        with torch._C._AutoDispatchBelowAutograd():
            return pack(rule.run(*given))

    _FRAGMENT.impl(name, differentiate, "Autograd")


def refuse(name: str, forward: str) -> None:
    """Let the backward operator `fwt::name` say that `fwt::forward` is what has derivatives."""
    operator = getattr(torch.ops.fwt, name).default

    def differentiate(*given: Any) -> Any:
        parts = [a if isinstance(a, list) else [a] for a in given]
        tensors = [a for part in parts for a in part if isinstance(a, Tensor)]
        if _wanted(tensors) or _has_tangent(tensors):
            raise ConfigError(
                f"fwt::{name}: has no derivative, and got an array that asks for one; "
                f"differentiate fwt::{forward}, which has all of them"
            )
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*given)

    _FRAGMENT.impl(name, differentiate, "Autograd")


def _wanted(tensors: Sequence[Tensor]) -> bool:
    """Whether reverse mode is to differentiate by one of the tensors."""
    return torch.is_grad_enabled() and any(a.requires_grad for a in tensors)


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    """Whether forward mode is to differentiate along one of the tensors."""
    unpack: Callable[..., Any] = forward_ad.unpack_dual
    return any(unpack(a).tangent is not None for a in tensors)


class _Differentiable(torch.autograd.Function):
    """An operator with the gradient of its rule."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, *given: Any) -> tuple[Tensor, ...]:
        """All results, flat."""
        with torch._C._AutoDispatchBelowAutograd():
            results = rule.run(*given)
        ctx.rule, ctx.count = rule, len(results)
        tensors = [a if isinstance(a, Tensor) else None for a in given]
        ctx.numbers = [None if isinstance(a, Tensor) else a for a in given]
        ctx.save_for_backward(*results, *tensors)
        ctx.mark_non_differentiable(*results[rule.shown :])
        ctx.set_materialize_grads(False)  # else zeros the size of all that is kept are made
        return results

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments, in their places."""
        rule, wanted = ctx.rule, ctx.needs_input_grad[1:]
        if all(slope is None for slope in slopes):
            return (None,) * (1 + len(wanted))
        results, tensors = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        given = [n if a is None else a for a, n in zip(tensors, ctx.numbers, strict=True)]
        outer = [
            torch.zeros_like(a) if slope is None else slope
            for a, slope in zip(results[: rule.shown], slopes, strict=False)
        ]
        batched = torch._C._functorch.is_legacy_batchedtensor  # of `is_grads_batched`  # pyright: ignore[reportAttributeAccessIssue]
        if torch.is_grad_enabled() or _has_tangent(outer) or any(map(batched, outer)):
            return None, *rule.by_equations(given, outer, wanted)
        return None, *rule.gradient(given, results, outer, wanted)
