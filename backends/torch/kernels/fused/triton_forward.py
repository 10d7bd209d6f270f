"""The forward Triton kernel: all time steps of a sequence; `cuda.py` says how it works."""

# Triton has no types, and its kernels none that a type checker could use.
# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from fwt.backends.torch.kernels.fused.triton_parts import (
    chosen,
    log2_of,
    normalise,
    power_of,
    product,
    readout,
    recall,
    relu,
    rows_of,
    square,
)


@triton.jit
def _fold(
    out,
    stores,
    border,
    start,
    end,
    steps,
    eta,
    log_decay,
    units,
    size: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
):
    """A at the end of a chunk, from A at its start (`border`) and the states stored since."""
    if end < steps:
        for row in range(0, size, tile):
            rows = row + tl.arange(0, tile)
            at = rows[:, None] * size + units[None, :]
            inside = (rows[:, None] < size) & (units[None, :] < size)
            fast = tl.zeros([tile, padded], log_decay.dtype)
            if start > 0:
                fast = tl.load(border + at, inside, 0.0) * power_of(log_decay, end - start)
            for tau in range(start, end):
                weight = eta * power_of(log_decay, end - 1 - tau)
                stored = tl.load(stores + tau) != 0  # 0 times infinity is not 0
                weight = tl.where(stored, weight, 0.0)
                state = tl.load(out + tau * size + units, (units < size) & stored, 0.0)
                part = tl.load(out + tau * size + rows, (rows < size) & stored, 0.0)
                fast += (weight * part)[:, None] * state[None, :]
            tl.store(border + size * size + at, fast, inside)
        tl.debug_barrier()  # the next chunk reads it


@triton.jit(do_not_specialize=["steps", "batch", "chunk"])
def forward_kernel(
    z,
    w,
    which,
    stores,
    gain,
    bias,
    decay,
    rate,
    out,
    pre,
    y,
    rstd,
    borders,
    steps,
    batch,
    chunk,
    epsilon: tl.constexpr,
    slow: tl.constexpr,
    size: tl.constexpr,
    inner: tl.constexpr,
    norm: tl.constexpr,
    wipe: tl.constexpr,
    bordered: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """States, slow brackets, brackets and borders of one sequence; see `cuda.forward`."""
    dtype: tl.constexpr = z.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    member = program // batch
    units = tl.arange(0, padded)
    live = units < size
    places = tl.arange(0, block)
    # this sequence's part of every array
    sequence = program * steps
    turns: tl.constexpr = inner if inner > 0 else 1
    z += sequence * size
    out += sequence * size
    pre += sequence * size
    y += sequence * turns * size
    rstd += sequence * turns
    w += member * slow * size * size
    if bordered:
        borders += program * ((steps - 1) // chunk) * size * size

    eta = tl.load(rate + member)
    log_decay = log2_of(decay + member)
    if norm:
        g = tl.load(gain + member * size + units, live, 0.0)
        b = tl.load(bias + member * size + units, live, 0.0)
    resident: tl.constexpr = slow == 1 and tile == padded
    if resident:
        weights = square(w, units, size)
    h = tl.zeros([padded], dtype)
    for start in range(0, steps, chunk):
        end = tl.minimum(start + chunk, steps)
        # A as this chunk found it; there is none before the first
        border = borders + (start // chunk - 1) * size * size
        for first in range(start, end, block):
            recent = tl.zeros([block, padded], dtype)  # the stored states of this block
            for t in range(first, tl.minimum(first + block, end)):
                stored = tl.load(stores + t)
                used, wrong = chosen(w, which + t, slow, size)
                bracket = tl.load(z + t * size + units, live, 0.0) + wrong.to(dtype)
                if resident:
                    bracket += tl.sum(weights * h[None, :], 1)
                else:
                    bracket += product(used, h, units, size, padded, tile, False)
                tl.store(pre + t * size + units, bracket, live)
                if inner == 0 and norm:
                    normal, scale = normalise(bracket, live, size, epsilon)
                    tl.store(y + t * size + units, normal, live)
                    tl.store(rstd + t, scale)
                    h = relu(normal * g + b)
                else:
                    h = relu(bracket)
                for k in tl.static_range(inner):
                    total = bracket
                    for past in range(start, first, block):
                        taus = past + places
                        kept = tl.load(stores + taus, taus < first, 0) != 0
                        states = rows_of(out, taus, kept, units, size)
                        found = tl.where(kept, eta * power_of(log_decay, t - 1 - taus), 0.0)
                        total += readout(states, found, h)
                    # rows of `recent` from t on are 0; their age only has to be finite
                    ages = tl.maximum(t - 1 - first - places, 0)
                    total += readout(recent, eta * power_of(log_decay, ages), h)
                    if bordered:
                        known = recall(border, start > 0, h, units, size, padded, tile)
                        total += power_of(log_decay, t - start) * known
                    if norm:
                        total, scale = normalise(total, live, size, epsilon)
                        tl.store(rstd + k * steps + t, scale)
                    tl.store(y + (k * steps + t) * size + units, total, live)
                    h = relu(total * g + b) if norm else relu(total)
                tl.store(out + t * size + units, h, live)
                new = (places == t - first) & stored
                recent = tl.where(new[:, None], h[None, :], recent)
                if wipe:
                    h = tl.where(stored, 0.0, h)
            tl.debug_barrier()  # the block's states are read from memory from here on
        if bordered:
            _fold(out, stores, border, start, end, steps, eta, log_decay, units, size, padded, tile)
