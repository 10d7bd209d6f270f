"""Adam of `mlx.optimizers` with a bias correction that keeps its digits."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
from mlx import optimizers


class Adam(optimizers.Adam):
    """Adam with bias correction, epsilon outside the root (Kingma & Ba 2015, algorithm 1).

    MLX computes 1 - beta**step in float32, whatever the weights' type: at the first updates, with
    beta2 = 0.999, four of its seven digits are lost, and an update is wrong by 1e-5 of itself.
    ReLU units that are switched by it carry two trainings apart. -expm1(step log beta) is exact.
    """

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]
    ) -> mx.array:
        """One parameter's update; its moments are left in `state`."""
        beta1, beta2 = self.betas
        step = self.step.astype(gradient.dtype)
        m = beta1 * state["m"] + (1 - beta1) * gradient
        v = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
        state["m"], state["v"] = m, v
        rate = self.learning_rate.astype(gradient.dtype) / _corrected(beta1, step)
        root = mx.sqrt(v) * mx.rsqrt(_corrected(beta2, step))
        updated: mx.array = parameter - rate * m / (root + self.eps)
        return updated


def _corrected(beta: float, step: mx.array) -> mx.array:
    """1 - beta**step without cancellation; 1 for beta = 0."""
    return -mx.expm1(step * math.log(beta)) if beta else mx.ones_like(step)
