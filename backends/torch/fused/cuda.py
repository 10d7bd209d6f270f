"""The fused core on CUDA: one Triton kernel each way, one program a sequence, for all time steps.

Forward, one time step of one sequence (eq. 1 to 3 of `fwcore.cells.fast_weights`, eq. 4 for the
reads): W h by multiply and sum from a tile of W that stays in registers; then S times scores and
readout of the past in one pass over tiles of states. The states of the running block of time
steps are a register tile; older ones are read from the output buffer itself, behind one barrier
a block. Where chunks are asked for, a chunk's states are folded at its border into A, which lies
in global memory.

Backward runs the time loop in reverse and never rebuilds A. Within a chunk the gradient of a
stored state is a pass over the later reads (query s, gradient of the bracket du); across borders
it is M h with M = G + G^T, G the gradient of A at the border (`du` and `m` are scratch).

All sums are multiply and add in the arrays' own number type: no tensor cores, so no tf32.
Powers of the decay are exp2(age log2 decay), the logarithm taken in float64. `decay` and `rate`
are read from device memory; nothing waits for the device. B, T and the chunk are run-time
numbers, so that a new batch or length builds no new kernel (but one for short sequences and one
for longer ones); R, S and the variant are not.

Launch, by the size in bytes of the W tile [R', R'], R' = R rounded up to a power of two (at least
16). A thread has 255 registers of four bytes and needs about a third of them for all the rest:
    to 4 KB (R <= 32 in float32)    1 warp, 32 registers of W a thread, and no barrier between
                                    warps in any sum, which is what a step of this size waits for
    to 16 KB (R <= 64)              4 warps, 32 registers of W a thread
    to 64 KB (R <= 128)             8 warps, 64 registers of W a thread
    beyond                          8 warps; W is streamed every step, from L2, in tiles of 64 KB
A block has 16 time steps, which holds the short sequences whole in registers, or 32 where the
sequence is longer and the tile has at most 32 KB. `num_stages=1`: a pipelined loop would load
states before the barrier behind which they are valid. The choices rest on the compiler's counts
for sm_90 in float32: at R <= 128 everything stays in registers but for some 300 bytes of spills in
the chunked backward kernel of R = 128. None of them has been timed on a device.
"""

# Triton has no types, and its kernels none that a type checker could use.
# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 16  # units of the smallest tile
TILE_BYTES = 65536  # of the part of a matrix that a program holds at a time
STATE_BYTES = 32768  # of the tile of states or reads of a block
SHORT, LONG = 16, 32  # time steps of a block


class _Shape(NamedTuple):
    """How a sequence is cut: see the module's docstring.

    Attributes:
        padded: R rounded up to a power of two.
        tile: rows (or columns) of a matrix that are held at a time.
        block: time steps, or reads, of a register tile.
        warps: warps of a program.
    """

    padded: int
    tile: int
    block: int
    warps: int


def _shape(size: int, steps: int, dtype: torch.dtype) -> _Shape:
    padded = max(LEAST, triton.next_power_of_2(size))
    row = padded * dtype.itemsize
    tile = min(padded, max(1, TILE_BYTES // row))
    block = max(1, min(SHORT if steps <= SHORT else LONG, STATE_BYTES // row))
    square = padded * row
    return _Shape(padded, tile, block, 1 if square <= 4096 else 4 if square <= 16384 else 8)


@triton.jit
def _relu(x):
    return tl.where(x <= 0, 0.0, x)  # lets NaN through, as torch.relu does


@triton.jit
def _log2(decay):
    return tl.log2(tl.maximum(tl.load(decay).to(tl.float64), 1e-300)).to(decay.dtype.element_ty)


@triton.jit
def _power(log_decay, age):
    return tl.exp2(log_decay * age)


@triton.jit
def _slope(log_decay, age):
    """The derivative of decay^age by decay; 0 at age 0."""
    return age * tl.exp2(log_decay * tl.maximum(age - 1, 0))


@triton.jit
def _product(
    matrix,
    vector,
    units,
    size: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
    transpose: tl.constexpr,
):
    """A matrix (R, R) in global memory, or its transpose, times a vector (R'), tile by tile."""
    total = tl.zeros([padded], vector.dtype)
    for first in range(0, size, tile):
        places = first + tl.arange(0, tile)
        part = vector if tile == padded else tl.gather(vector, places, 0)
        if transpose:
            inside = (places[:, None] < size) & (units[None, :] < size)
            values = tl.load(matrix + places[:, None] * size + units[None, :], inside, 0.0)
            total += tl.sum(values * part[:, None], 0)
        else:
            inside = (units[:, None] < size) & (places[None, :] < size)
            values = tl.load(matrix + units[:, None] * size + places[None, :], inside, 0.0)
            total += tl.sum(values * part[None, :], 1)
    return total


@triton.jit
def _square(matrix, units, size: tl.constexpr):
    """A matrix (R, R) of global memory as one register tile (R', R')."""
    inside = (units[:, None] < size) & (units[None, :] < size)
    return tl.load(matrix + units[:, None] * size + units[None, :], inside, 0.0)


@triton.jit
def _rows(array, steps, inside, units, size: tl.constexpr):
    """Rows `steps` of an array (T, R) as a register tile; 0 where not `inside`."""
    wanted = inside[:, None] & (units[None, :] < size)
    return tl.load(array + steps[:, None] * size + units[None, :], wanted, 0.0)


@triton.jit
def _readout(states, weights, query):
    """Scores and readout of a tile of states (n, R') in one pass: sum of w (h . q) h."""
    scores = tl.sum(states * query[None, :], 1) * weights
    return tl.sum(states * scores[:, None], 0)


@triton.jit
def _normalise(bracket, live, size: tl.constexpr, epsilon: tl.constexpr):
    """Layer norm without gain and bias, and 1 / sqrt(variance + epsilon)."""
    mean = tl.sum(bracket, 0) / size
    centred = tl.where(live, bracket - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 0) / size + epsilon)
    return centred * rstd, rstd


@triton.jit
def _recall(
    matrix,
    exists,
    query,
    units,
    size: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
):
    """A symmetric matrix (R, R) of global memory times a query; 0 where it does not exist."""
    total = tl.zeros([padded], query.dtype)
    if exists:
        total = _product(matrix, query, units, size, padded, tile, True)
    return total


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
                fast = tl.load(border + at, inside, 0.0) * _power(log_decay, end - start)
            for tau in range(start, end):
                weight = eta * _power(log_decay, end - 1 - tau)
                weight = tl.where(tl.load(stores + tau), weight, 0.0)
                state = tl.load(out + tau * size + units, units < size, 0.0)
                part = tl.load(out + tau * size + rows, rows < size, 0.0)
                fast += (weight * part)[:, None] * state[None, :]
            tl.store(border + size * size + at, fast, inside)
        tl.debug_barrier()  # the next chunk reads it


@triton.jit(do_not_specialize=["steps", "batch", "chunk"])
def _forward_kernel(
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
    log_decay = _log2(decay + member)
    if norm:
        g = tl.load(gain + member * size + units, live, 0.0)
        b = tl.load(bias + member * size + units, live, 0.0)
    resident: tl.constexpr = slow == 1 and tile == padded
    if resident:
        weights = _square(w, units, size)
    h = tl.zeros([padded], dtype)
    for start in range(0, steps, chunk):
        end = tl.minimum(start + chunk, steps)
        # A as this chunk found it; there is none before the first
        border = borders + (start // chunk - 1) * size * size
        for first in range(start, end, block):
            recent = tl.zeros([block, padded], dtype)  # the stored states of this block
            for t in range(first, tl.minimum(first + block, end)):
                stored = tl.load(stores + t)
                bracket = tl.load(z + t * size + units, live, 0.0)
                if resident:
                    bracket += tl.sum(weights * h[None, :], 1)
                else:
                    used = w + tl.load(which + t) * size * size
                    bracket += _product(used, h, units, size, padded, tile, False)
                tl.store(pre + t * size + units, bracket, live)
                if inner == 0 and norm:
                    normal, scale = _normalise(bracket, live, size, epsilon)
                    tl.store(y + t * size + units, normal, live)
                    tl.store(rstd + t, scale)
                    h = _relu(normal * g + b)
                else:
                    h = _relu(bracket)
                for k in tl.static_range(inner):
                    total = bracket
                    for past in range(start, first, block):
                        taus = past + places
                        states = _rows(out, taus, taus < first, units, size)
                        found = eta * _power(log_decay, t - 1 - taus)
                        found = tl.where(tl.load(stores + taus), found, 0.0)
                        total += _readout(states, found, h)
                    # rows of `recent` from t on are 0; their age only has to be finite
                    ages = tl.maximum(t - 1 - first - places, 0)
                    total += _readout(recent, eta * _power(log_decay, ages), h)
                    if bordered:
                        known = _recall(border, start > 0, h, units, size, padded, tile)
                        total += _power(log_decay, t - start) * known
                    if norm:
                        total, scale = _normalise(total, live, size, epsilon)
                        tl.store(rstd + k * steps + t, scale)
                    tl.store(y + (k * steps + t) * size + units, total, live)
                    h = _relu(total * g + b) if norm else _relu(total)
                tl.store(out + t * size + units, h, live)
                new = (places == t - first) & stored
                recent = tl.where(new[:, None], h[None, :], recent)
                if wipe:
                    h = tl.where(stored, 0.0, h)
            tl.debug_barrier()  # the block's states are read from memory from here on
        if bordered:
            _fold(out, stores, border, start, end, steps, eta, log_decay, units, size, padded, tile)


@triton.jit
def _queries(
    pre,
    y,
    numbers,
    inside,
    units,
    length,
    g,
    b,
    size: tl.constexpr,
    inner: tl.constexpr,
    norm: tl.constexpr,
):
    """The queries of reads `numbers` (read n is inner step n % S of time step n // S)."""
    steps = numbers // inner
    query = _rows(pre, steps, inside, units, size)
    if inner > 1:
        k = numbers % inner
        later = _rows(y, (k - 1) * length + steps, inside & (k > 0), units, size)
        if norm:
            later = later * g[None, :] + b[None, :]
        query = tl.where((k > 0)[:, None], later, query)
    return _relu(query)


@triton.jit
def _state_gradient(h, queries, changes, weights):
    """Gradient of a stored state from later reads: sum of w [(h . s) du + (h . du) s]."""
    asked = tl.sum(queries * h[None, :], 1) * weights
    changed = tl.sum(changes * h[None, :], 1) * weights
    return tl.sum(asked[:, None] * changes + changed[:, None] * queries, 0)


@triton.jit
def _past(states, valid, ages, query, dx, log_decay):
    """Gradients through a read of a tile of states (n, R'), up to the factor rate.

    Returns those of the query, (R'), and each state's part of those of rate and decay, (n,).
    """
    p = tl.where(valid, tl.sum(states * query[None, :], 1), 0.0)
    q = tl.where(valid, tl.sum(states * dx[None, :], 1), 0.0)
    ages = tl.maximum(ages, 0)  # of rows that are not valid: only has to be finite
    power = _power(log_decay, ages)
    ds = tl.sum(states * (power * q)[:, None], 0)
    return ds, power * p * q, _slope(log_decay, ages) * p * q


@triton.jit
def _query(pre, y, t, k, length, gain, bias, units, size: tl.constexpr, norm: tl.constexpr):
    """The query of inner step k (a compile-time number) of time step t at `units`."""
    live = units < size
    before = pre + t * size if k == 0 else y + ((k - 1) * length + t) * size
    query = tl.load(before + units, live, 0.0)
    if norm and k > 0:
        query = query * tl.load(gain + units, live, 0.0) + tl.load(bias + units, live, 0.0)
    return _relu(query)


@triton.jit
def _fold_back(
    pre,
    y,
    du,
    border,
    m,
    start,
    end,
    steps,
    gain,
    bias,
    log_decay,
    units,
    size: tl.constexpr,
    inner: tl.constexpr,
    norm: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
):
    """M at the start of a chunk (in place), from M at its end and the chunk's reads.

    Returns the part of the gradient of decay, (R'), that comes from folding A over this chunk.
    """
    slope = tl.zeros([padded], log_decay.dtype)
    if start > 0:
        for row in range(0, size, tile):
            rows = row + tl.arange(0, tile)
            at = rows[:, None] * size + units[None, :]
            inside = (rows[:, None] < size) & (units[None, :] < size)
            both = tl.zeros([tile, padded], log_decay.dtype)
            if end < steps:
                both = tl.load(m + at, inside, 0.0)
                fast = tl.load(border + at, inside, 0.0)
                slope += 0.5 * _slope(log_decay, end - start) * tl.sum(both * fast, 0)
                both *= _power(log_decay, end - start)
            for t in range(start, end):
                left = _power(log_decay, t - start)
                for k in tl.static_range(inner):
                    query = _query(pre, y, t, k, steps, gain, bias, units, size, norm)
                    part = _query(pre, y, t, k, steps, gain, bias, rows, size, norm)
                    found = du + (t * inner + k) * size
                    dx = tl.load(found + units, units < size, 0.0)
                    dx_part = tl.load(found + rows, rows < size, 0.0)
                    both += (left * dx_part)[:, None] * query[None, :]
                    both += (left * part)[:, None] * dx[None, :]
            tl.store(m + at, both, inside)
        tl.debug_barrier()  # the chunk before reads it
    return slope


@triton.jit(do_not_specialize=["steps", "batch", "chunk"])
def _backward_kernel(
    grad,
    out,
    pre,
    y,
    rstd,
    borders,
    w,
    which,
    stores,
    gain,
    bias,
    decay,
    rate,
    dz,
    dgain,
    dbias,
    ddecay,
    drate,
    du,
    m,
    steps,
    batch,
    chunk,
    slow: tl.constexpr,
    size: tl.constexpr,
    inner: tl.constexpr,
    norm: tl.constexpr,
    wipe: tl.constexpr,
    bordered: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    span: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    member = program // batch
    units = tl.arange(0, padded)
    live = units < size
    places = tl.arange(0, block)  # time steps, or reads, of a block; `span` steps are used
    spanned = places < span
    turns: tl.constexpr = inner if inner > 0 else 1  # inner steps of which y has one
    sequence = program * steps
    grad += sequence * size
    out += sequence * size
    pre += sequence * size
    y += sequence * turns * size
    dz += sequence * size
    rstd += sequence * turns
    du += sequence * inner * size
    w += member * slow * size * size
    at_gain = gain + member * size
    at_bias = bias + member * size
    if bordered:
        borders += program * ((steps - 1) // chunk) * size * size
        m += program * size * size

    eta = tl.load(rate + member)
    log_decay = _log2(decay + member)
    g = tl.zeros([padded], dtype)
    b = tl.zeros([padded], dtype)
    if norm:
        g = tl.load(at_gain + units, live, 0.0)
        b = tl.load(at_bias + units, live, 0.0)
    resident: tl.constexpr = slow == 1 and tile == padded
    if resident:
        weights = _square(w, units, size)
    sum_gain = tl.zeros([padded], dtype)
    sum_bias = tl.zeros([padded], dtype)
    # parts of the gradients of rate and decay: from states, summed over rows; from borders
    rate_states = tl.zeros([block], dtype)
    decay_states = tl.zeros([block], dtype)
    rate_border = tl.zeros([padded], dtype)
    decay_border = tl.zeros([padded], dtype)
    change = tl.zeros([padded], dtype)  # dz of the step after
    following = tl.load(which + steps - 1)  # that step's slow weights
    chunks = (steps + chunk - 1) // chunk
    for c in range(chunks):
        start = (chunks - 1 - c) * chunk
        end = tl.minimum(start + chunk, steps)
        border = borders + (start // chunk - 1) * size * size
        blocks = (end - start + span - 1) // span
        for i in range(blocks):
            first = start + (blocks - 1 - i) * span
            last = tl.minimum(first + span, end)
            if inner > 0:
                taus = first + places
                states = _rows(out, taus, taus < last, units, size)
                kept = tl.load(stores + taus, taus < last, 0) != 0
                numbers = first * inner + places
                queries = _queries(
                    pre, y, numbers, numbers < last * inner, units, steps, g, b, size, inner, norm
                )
                changes = tl.zeros([block, padded], dtype)
            for j in range(last - first):
                t = last - 1 - j
                stored = tl.load(stores + t)
                ds = tl.load(grad + t * size + units, live, 0.0)
                slow_bracket = tl.load(pre + t * size + units, live, 0.0)
                h = tl.load(out + t * size + units, live, 0.0)
                if wipe:
                    change = tl.where(stored, 0.0, change)
                if resident:
                    ds += tl.sum(weights * change[:, None], 0)
                else:
                    used = w + following * size * size
                    ds += _product(used, change, units, size, padded, tile, True)
                if inner > 0:
                    # reads up to t have no gradient yet (0); their age only has to be finite
                    ages = tl.maximum(first + places // inner - 1 - t, 0)
                    dh = _state_gradient(h, queries, changes, _power(log_decay, ages))
                    for later in range(first + span, end, span):
                        numbers = later * inner + places
                        inside = (places < span * inner) & (numbers < end * inner)
                        asked = _queries(
                            pre, y, numbers, inside, units, steps, g, b, size, inner, norm
                        )
                        found = _rows(du, numbers, inside, units, size)
                        ages = later + places // inner - 1 - t
                        dh += _state_gradient(h, asked, found, _power(log_decay, ages))
                    if bordered:
                        fast = _recall(m, end < steps, h, units, size, padded, tile)
                        left = _power(log_decay, end - 1 - t)
                        dh += left * fast
                        half = tl.where(stored, 0.5 * h * fast, 0.0)
                        rate_border += left * half
                        decay_border += eta * _slope(log_decay, end - 1 - t) * half
                    ds += tl.where(stored, eta * dh, 0.0)
                change = tl.zeros([padded], dtype)
                for k in tl.static_range(turns - 1, -1, -1):
                    if norm:
                        normal = tl.load(y + (k * steps + t) * size + units, live, 0.0)
                        dy = tl.where(normal * g + b <= 0, 0.0, ds)
                        sum_gain += dy * normal
                        sum_bias += dy
                        dx = dy * g
                        mean = tl.sum(dx, 0) / size
                        along = tl.sum(dx * normal, 0) / size
                        scale = tl.load(rstd + k * steps + t)
                        # what this has past R meets only zeros from here on
                        dx = scale * (dx - mean - normal * along)
                    elif inner > 0:
                        bracket = tl.load(y + (k * steps + t) * size + units, live, 0.0)
                        dx = tl.where(bracket <= 0, 0.0, ds)
                    else:
                        dx = tl.where(slow_bracket <= 0, 0.0, ds)
                    change += dx
                    if inner > 0:
                        number = t * inner + k
                        tl.store(du + number * size + units, dx, live)
                        here = places == number - first * inner
                        changes = tl.where(here[:, None], dx[None, :], changes)
                        query = _query(pre, y, t, k, steps, at_gain, at_bias, units, size, norm)
                        ds = tl.zeros([padded], dtype)
                        for past in range(start, first, span):
                            earlier = past + places
                            inside = spanned & (earlier < first)
                            older = _rows(out, earlier, inside, units, size)
                            valid = tl.load(stores + earlier, inside, 0) != 0
                            ds_part, rate_part, decay_part = _past(
                                older, valid, t - 1 - earlier, query, dx, log_decay
                            )
                            ds += ds_part
                            rate_states += rate_part
                            decay_states += decay_part
                        ds_part, rate_part, decay_part = _past(
                            states, kept & (taus < t), t - 1 - taus, query, dx, log_decay
                        )
                        ds = eta * (ds + ds_part)
                        rate_states += rate_part
                        decay_states += decay_part
                        if bordered:
                            fast = _recall(border, start > 0, dx, units, size, padded, tile)
                            ds += _power(log_decay, t - start) * fast
                            decay_border += _slope(log_decay, t - start) * query * fast
                if inner > 0:
                    change += tl.where(slow_bracket <= 0, 0.0, ds)
                tl.store(dz + t * size + units, change, live)
                following = tl.load(which + t)
            tl.debug_barrier()  # the block's du is read from memory from here on
        if bordered:
            decay_border += _fold_back(
                pre,
                y,
                du,
                border,
                m,
                start,
                end,
                steps,
                at_gain,
                at_bias,
                log_decay,
                units,
                size,
                inner,
                norm,
                padded,
                tile,
            )
    tl.store(dgain + program * size + units, sum_gain, live)
    tl.store(dbias + program * size + units, sum_bias, live)
    tl.store(drate + program, tl.sum(rate_states, 0) + tl.sum(rate_border, 0))
    tl.store(ddecay + program, eta * tl.sum(decay_states, 0) + tl.sum(decay_border, 0))


def empty(z: Tensor, inner: int, chunk: int) -> list[Tensor]:
    """Room for what `forward` gives, by sequence.

    Returns:
        States h (P, B, T, R); slow brackets W h + C x (P, B, T, R); brackets, normalised where
        there is a norm (P, B, max(S, 1), T, R), and their 1 / standard deviation (P, B,
        max(S, 1), T); A as steps chunk, 2 chunk, ... find it (P, B, (T - 1) // chunk, R, R).
        What a variant has no use for keeps the numbers that were there.
    """
    members, batch, steps, size = z.shape
    turns = max(inner, 1)
    return [
        torch.empty_like(z),
        torch.empty_like(z),
        z.new_empty((members, batch, turns, steps, size)),
        z.new_empty((members, batch, turns, steps)),
        z.new_empty((members, batch, (steps - 1) // chunk, size, size)),
    ]


def forward(
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
) -> list[Tensor]:
    """All time steps of all sequences: see `backends.torch.fused.operator`.

    Args:
        z: slow input, (P, B, T, R).
        w: slow weights, (P, N, R, R).
        which: of the N, each step's, int64 (T,).
        stores: whether a step's state is written into A, bool (T,).
        wipe: whether h is zero after a write.
        inner: S.
        norm: layer norm of the bracket, with `gain` and `bias` (P, R) and `epsilon`.
        decay, rate: lambda and eta, (P,).
        chunk: time steps between two borders; T or more has none.

    Returns:
        As in `empty`.
    """
    members, batch, steps, size = z.shape
    chunk = min(chunk, steps)
    out, pre, y, rstd, borders = found = empty(z, inner, chunk)
    shape = _shape(size, steps, z.dtype)
    with torch.cuda.device_of(z):
        _forward_kernel[(members * batch,)](
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
            epsilon=epsilon,
            slow=w.shape[1],
            size=size,
            inner=inner,
            norm=norm,
            wipe=wipe,
            bordered=borders.shape[2] > 0,
            padded=shape.padded,
            tile=shape.tile,
            block=shape.block,
            num_warps=shape.warps,
            num_stages=1,
            enable_fp_fusion=True,
        )
    return found


def backward(
    grad_out: Tensor,
    out: Tensor,
    pre: Tensor,
    y: Tensor,
    rstd: Tensor,
    borders: Tensor,
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
    """Gradients from that of the states, `grad_out` (P, B, T, R), and what `forward` gave.

    Returns:
        Gradient of the slow brackets, and so of z, (P, B, T, R); of gain and bias, (P, B, R), and
        of decay and rate, (P, B), each sequence's own part. W's is a product of the first with
        the states: sum over the steps that use it of dz(t)^T h(t - 1).
    """
    members, batch, steps, size = out.shape
    chunk = min(chunk, steps)
    bordered = inner > 0 and chunk < steps
    dz = torch.empty_like(out)
    # one allocation each: Triton builds another kernel for arrays that do not begin aligned
    dgain, dbias = (out.new_empty((members, batch, size)) for _ in range(2))
    ddecay, drate = (out.new_empty((members, batch)) for _ in range(2))
    shape = _shape(size, steps, out.dtype)
    block = max(shape.block, triton.next_power_of_2(inner))
    du = out.new_empty((members, batch, steps * inner, size))
    m = out.new_empty((members, batch, size, size) if bordered else (0,))
    with torch.cuda.device_of(out):
        _backward_kernel[(members * batch,)](
            grad_out,
            out,
            pre,
            y,
            rstd,
            borders,
            w,
            which,
            stores,
            gain,
            bias,
            decay,
            rate,
            dz,
            dgain,
            dbias,
            ddecay,
            drate,
            du,
            m,
            steps,
            batch,
            chunk,
            slow=w.shape[1],
            size=size,
            inner=inner,
            norm=norm,
            wipe=wipe,
            bordered=bordered,
            padded=shape.padded,
            tile=shape.tile,
            block=block,
            span=block // max(inner, 1),
            num_warps=shape.warps,
            num_stages=1,
            enable_fp_fusion=True,
        )
    return dz, dgain, dbias, ddecay, drate
