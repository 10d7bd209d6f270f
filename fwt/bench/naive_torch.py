"""Fast weights in PyTorch as the public implementations write them: the subject `naive`.

One R x R matrix a sequence, updated and read by `torch.bmm` at every time step, a layer norm
written by hand, a Python loop over time and autograd through all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        self.w = nn.Parameter(torch.empty(size, size))
        self.c = nn.Parameter(torch.empty(size, inputs))
        self.gain = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))
        self.head = nn.Linear(size, classes)
        self.inner_steps, self.decay, self.rate = inner_steps, decay, rate
        self.epsilon = epsilon

    def layer_norm(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + epsilon), with gain and bias, over the last axis."""
        mean = x.mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        return self.gain * (x - mean) / torch.sqrt(variance + self.epsilon) + self.bias

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros for h (B, R) and A (B, R, R), for inputs x (B, ...)."""
        size = self.w.shape[0]
        return x.new_zeros(len(x), size), x.new_zeros(len(x), size, size)

    def step(self, x: Tensor, h: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: x (B, I), h (B, R), A (B, R, R) -> the next h and A."""
        slow = h @ self.w.t() + x @ self.c.t()
        h = torch.relu(slow)
        for _ in range(self.inner_steps):
            read = torch.bmm(fast, h.unsqueeze(2)).squeeze(2)
            h = torch.relu(self.layer_norm(slow + read))
        if self.inner_steps == 0:
            h = torch.relu(self.layer_norm(slow))
        fast = self.decay * fast + self.rate * torch.bmm(h.unsqueeze(2), h.unsqueeze(1))
        return h, fast

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of the last hidden state."""
        h, fast = self.start(x)
        for t in range(x.shape[1]):
            h, fast = self.step(x[:, t], h, fast)
        scores: Tensor = self.head(h)
        return scores
