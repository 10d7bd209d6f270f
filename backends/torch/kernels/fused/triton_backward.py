"""The backward Triton kernel: the time loop in reverse; `cuda.py` says how it works."""

# Triton has no types, and its kernels none that a type checker could use.
# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from fwt.backends.torch.kernels.fused.triton_parts import (
    chosen,
    log2_of,
    power_of,
    product,
    recall,
    relu,
    rows_of,
    slope_of,
    square,
)


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
    query = rows_of(pre, steps, inside, units, size)
    if inner > 1:
        k = numbers % inner
        later = rows_of(y, (k - 1) * length + steps, inside & (k > 0), units, size)
        if norm:
            later = later * g[None, :] + b[None, :]
        query = tl.where((k > 0)[:, None], later, query)
    return relu(query)


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
    power = power_of(log_decay, ages)
    ds = tl.sum(states * (power * q)[:, None], 0)
    return ds, power * p * q, slope_of(log_decay, ages) * p * q


@triton.jit
def _query(pre, y, t, k, length, gain, bias, units, size: tl.constexpr, norm: tl.constexpr):
    """The query of inner step k (a compile-time number) of time step t at `units`."""
    live = units < size
    before = pre + t * size if k == 0 else y + ((k - 1) * length + t) * size
    query = tl.load(before + units, live, 0.0)
    if norm and k > 0:
        query = query * tl.load(gain + units, live, 0.0) + tl.load(bias + units, live, 0.0)
    return relu(query)


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
                slope += 0.5 * slope_of(log_decay, end - start) * tl.sum(both * fast, 0)
                both *= power_of(log_decay, end - start)
            for t in range(start, end):
                left = power_of(log_decay, t - start)
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
def backward_kernel(
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
    """Gradients of one sequence; see `cuda.backward`."""
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
    log_decay = log2_of(decay + member)
    g = tl.zeros([padded], dtype)
    b = tl.zeros([padded], dtype)
    if norm:
        g = tl.load(at_gain + units, live, 0.0)
        b = tl.load(at_bias + units, live, 0.0)
    resident: tl.constexpr = slow == 1 and tile == padded
    if resident:
        weights = square(w, units, size)
    sum_gain = tl.zeros([padded], dtype)
    sum_bias = tl.zeros([padded], dtype)
    # parts of the gradients of rate and decay: from states, summed over rows; from borders
    rate_states = tl.zeros([block], dtype)
    decay_states = tl.zeros([block], dtype)
    rate_border = tl.zeros([padded], dtype)
    decay_border = tl.zeros([padded], dtype)
    change = tl.zeros([padded], dtype)  # dz of the step after
    following, _ = chosen(w, which + steps - 1, slow, size)  # that step's slow weights
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
                kept = tl.load(stores + taus, taus < last, 0) != 0
                states = rows_of(out, taus, kept, units, size)
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
                    ds += product(following, change, units, size, padded, tile, True)
                if inner > 0:
                    # reads up to t have no gradient yet (0); their age only has to be finite
                    ages = tl.maximum(first + places // inner - 1 - t, 0)
                    dh = _state_gradient(h, queries, changes, power_of(log_decay, ages))
                    for later in range(first + span, end, span):
                        numbers = later * inner + places
                        inside = (places < span * inner) & (numbers < end * inner)
                        asked = _queries(
                            pre, y, numbers, inside, units, steps, g, b, size, inner, norm
                        )
                        found = rows_of(du, numbers, inside, units, size)
                        ages = later + places // inner - 1 - t
                        dh += _state_gradient(h, asked, found, power_of(log_decay, ages))
                    if bordered:
                        fast = recall(m, end < steps, h, units, size, padded, tile)
                        left = power_of(log_decay, end - 1 - t)
                        dh += left * fast
                        half = tl.where(stored, 0.5 * h * fast, 0.0)
                        rate_border += left * half
                        decay_border += eta * slope_of(log_decay, end - 1 - t) * half
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
                            valid = tl.load(stores + earlier, inside, 0) != 0
                            older = rows_of(out, earlier, valid, units, size)
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
                            fast = recall(border, start > 0, dx, units, size, padded, tile)
                            ds += power_of(log_decay, t - start) * fast
                            decay_border += slope_of(log_decay, t - start) * query * fast
                if inner > 0:
                    change += tl.where(slow_bracket <= 0, 0.0, ds)
                tl.store(dz + t * size + units, change, live)
                following, _ = chosen(w, which + t, slow, size)
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
