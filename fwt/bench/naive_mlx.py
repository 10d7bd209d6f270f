"""Fast weights in MLX as the public implementations write them, not compiled: subject `naive`.

The same lines as in `fwt.bench.naive_torch`.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class Naive(nn.Module):
    """The network: float (B, T, I) -> class scores (B, classes).

    Args:
        inputs, size, classes: I, R and the number of classes.
        inner_steps, decay, rate, epsilon: S, lambda, eta, and the layer norm's.
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        classes: int,
        inner_steps: int,
        decay: float,
        rate: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.w = mx.zeros((size, size))
        self.c = mx.zeros((size, inputs))
        self.gain = mx.ones(size)
        self.bias = mx.zeros(size)
        self.head = nn.Linear(size, classes)
        self.inner_steps, self.decay, self.rate = inner_steps, decay, rate
        self.epsilon = epsilon

    def layer_norm(self, x: mx.array) -> mx.array:
        """(x - mean) / sqrt(variance + epsilon), with gain and bias, over the last axis."""
        mean = mx.mean(x, axis=1, keepdims=True)
        variance = mx.mean((x - mean) ** 2, axis=1, keepdims=True)
        return self.gain * (x - mean) / mx.sqrt(variance + self.epsilon) + self.bias

    def start(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Zeros for h (B, R) and A (B, R, R), for inputs x (B, ...)."""
        size = self.w.shape[0]
        return mx.zeros((len(x), size)), mx.zeros((len(x), size, size))

    def step(self, x: mx.array, h: mx.array, fast: mx.array) -> tuple[mx.array, mx.array]:
        """One time step: x (B, I), h (B, R), A (B, R, R) -> the next h and A."""
        slow = h @ self.w.T + x @ self.c.T
        h = mx.maximum(slow, 0)
        for _ in range(self.inner_steps):
            read = (fast @ h[:, :, None]).squeeze(2)
            h = mx.maximum(self.layer_norm(slow + read), 0)
        if self.inner_steps == 0:
            h = mx.maximum(self.layer_norm(slow), 0)
        fast = self.decay * fast + self.rate * (h[:, :, None] @ h[:, None, :])
        return h, fast

    def __call__(self, x: mx.array) -> mx.array:
        """Class scores of the last hidden state."""
        h, fast = self.start(x)
        for t in range(x.shape[1]):
            h, fast = self.step(x[:, t], h, fast)
        scores: mx.array = self.head(h)
        return scores
