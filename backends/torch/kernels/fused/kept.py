"""What the forward kernels keep for the gradient: the shapes of it, by letters, and room for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fwt.backends.torch.kernels.arguments import Sizes

LANE_BYTES = 32  # BYTES of kernel.cpp

# letters beside those of `operator`: L lanes, G groups of L sequences, K brackets of a time step,
# C borders
SIZES: dict[str, Callable[[Sizes], int]] = {
    "L": lambda sizes: LANE_BYTES // sizes["bytes"],
    "G": lambda sizes: -(-sizes["B"] * sizes["bytes"] // LANE_BYTES),
    "K": lambda sizes: max(sizes["inner"], 1),
    "C": lambda sizes: (sizes["T"] - 1) // sizes["chunk"],
}


def empty(kept: Mapping[str, str], z: Tensor, inner: int, chunk: int) -> list[Tensor]:
    """Room for the arrays whose axes `kept` names, for a call with z (P, B, T, R)."""
    sizes: Sizes = dict(zip("PBTR", z.shape, strict=True))
    sizes |= {"bytes": z.element_size(), "inner": inner, "chunk": chunk}
    sizes |= {letter: size(sizes) for letter, size in SIZES.items()}
    return [z.new_empty([sizes[letter] for letter in axes.split()]) for axes in kept.values()]
