"""AdamW of PyTorch without what stands around it, which takes longer than a small update."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# without the decorator that imports PyTorch's compiler, which takes as long as PyTorch itself: it
# keeps optimisers from being compiled, and none of ours is
add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class Adam(torch.optim.AdamW):
    """`torch.optim.AdamW` with `fused=True`: the same state, the same update, called directly.

    The class groups tensors and checks them at every step, which takes longer than the update of
    the few small matrices that a recurrent network has.
    """

    add_param_group = add_param_group

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            states = [self._state_of(weight) for weight in weights]
            beta1, beta2 = group["betas"]
            adamw(
                weights,
                [weight.grad for weight in weights],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                capturable=group["capturable"],
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Step count and moments of a weight, zero before its first update."""
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state
