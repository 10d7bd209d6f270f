"""The independent oracle of the test-suite: the paper's equations as scalar loops in float64.

Written from the papers alone; it shares no code with the package under test. NumPy only holds
the arrays that go in and come out: every sum is an explicit loop over Python floats.

Letters: B batch, T time, I input, R hidden, S inner steps, E embedding, K classes. Equation
numbers (1) to (4) count as in `fwt.fwcore.memory` and `fwt.fwcore.cells.fast_weights`, after Ba,
Hinton, Mnih, Leibo, Ionescu 2016; [N] is Ba, Kiros, Hinton 2016 (layer normalization). Steps count
from 0: step t reads x[:, t] and yields hs[:, t]. Parameters are a mapping of name to float64 array,
only read.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.oracle_layers import (
    Array,
    Mat,
    Params,
    Vec,
    as_mat,
    as_vec,
    check_choice,
    embedding,
    linear,
    matrix_times,
    norm_of,
    relu,
    relu_of,
    sigmoid_of,
    sizes_of,
    step_set,
    sum_of,
)
from tests.oracle_layers import cross_entropy as cross_entropy
from tests.oracle_layers import layer_norm as layer_norm
from tests.oracle_layers import log_softmax as log_softmax

States: TypeAlias = dict[str, Array]
Core: TypeAlias = Callable[[Params, Array], tuple[Array, States]]


# --- recurrent cores ----------------------------------------------------------------------


def _decay_and_write(a: Mat, decay: float, rate: float, h: Vec | None) -> Mat:
    """Equation (1): decay * A + rate * h h^T; only the decay when h is None. a (R, R), h (R,)."""
    size = len(a)
    out = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(size):
            out[i][j] = decay * a[i][j]
            if h is not None:
                out[i][j] += rate * h[i] * h[j]
    return out


def fast_weights(
    p: Params,
    x: Array,
    *,
    inner_steps: int,
    decay: float,
    rate: float,
    norm: Literal["sum", "none", "slow", "both"],
    write: Literal["final", "preliminary"],
    sustained: Literal["boundary", "identity", "preliminary"],
    bias: bool = False,
    store: Collection[int] | None = None,
    wipe: bool = False,
    integrate: Collection[int] = (),
) -> tuple[Array, States]:
    """The fast-weights cell, equations (1) to (3), A as a matrix. x (B, T, I).

    Parameters: core.w (R, R), core.c (R, I); core.norm.weight and core.norm.bias (R,) for norm
    'sum', 'slow' and 'both' (not for 'both' with S = 0); core.norm_0.weight and core.norm_0.bias
    (R,) for norm 'both'; core.bias (R,) for norm 'slow' and for `bias`; core.w_int (R, R) and
    core.c_int (R, I) if `integrate` is not empty. h(0) = 0, A(0) = 0; f is ReLU.

    (2) pre = W h + C x, with W_int and C_int at the steps of `integrate`; `bias` adds the bias.
        norm 'slow' puts LN[bias + pre] in its place. h_0 = f(pre), for norm 'both' f(LN_0[pre]).
    (3) h_{s+1} = f(pre + A h_s), s = 0..S-1, with LN around the sum for norm 'sum'; sustained
        'identity' puts h_s in the place of pre, i.e. f((A + I) h_s); 'preliminary' puts
        W h_0 + C x there, made like pre but of h_0. LN for norm 'both' too. With S = 0 nothing
        is read: h = h_0, for norm 'sum' f(LN[pre]).
    (1) A = decay * A + rate * u u^T, at steps outside `store` (None: every step is stored) only
        A = decay * A. write 'final': u = h, after the step; 'preliminary': u = h_0 = f(pre),
        before the inner loop of the same step, and nothing after it (without LN, for S = 0 too).
    wipe: h is zero after every stored step, once it is written; hs holds it before the wipe.

    Returns hs (B, T, R) and {'h': (B, R), 'A': (B, R, R)}, h after the wipe.
    """
    check_choice("norm", norm, ("sum", "none", "slow", "both"))
    check_choice("write", write, ("final", "preliminary"))
    check_choice("sustained", sustained, ("boundary", "identity", "preliminary"))
    if inner_steps < 0:
        raise ValueError(f"inner_steps must not be negative, got {inner_steps}")
    batch, time, inputs = sizes_of(x)
    size = p["core.w"].shape[0]
    stored = step_set("store", range(time) if store is None else store, time)
    integrated = step_set("integrate", integrate, time)
    slow = (as_mat(p["core.w"], size, size), as_mat(p["core.c"], size, inputs))
    merging = slow
    if integrated:
        merging = (as_mat(p["core.w_int"], size, size), as_mat(p["core.c_int"], size, inputs))
    shift = as_vec(p["core.bias"], size) if bias or norm == "slow" else [0.0] * size
    reads_norm = norm in ("sum", "slow") or (norm == "both" and inner_steps > 0)
    ln = norm_of(p, "core.norm", size) if reads_norm else None
    ln_0 = norm_of(p, "core.norm_0", size) if norm == "both" else None

    hs = np.zeros((batch, time, size))
    final = {"h": np.zeros((batch, size)), "A": np.zeros((batch, size, size))}
    for b in range(batch):
        h = [0.0] * size
        a = [[0.0] * size for _ in range(size)]
        for t in range(time):
            w, c = merging if t in integrated else slow
            from_x = sum_of(shift, matrix_times(c, as_vec(x[b, t])))
            pre = sum_of(matrix_times(w, h), from_x)
            if norm == "slow" and ln is not None:
                pre = ln(pre)
            h_0 = [relu_of(e) for e in (pre if ln_0 is None else ln_0(pre))]
            if write == "preliminary":
                a = _decay_and_write(a, decay, rate, h_0 if t in stored else None)
            if inner_steps == 0:
                h = [relu_of(e) for e in ln(pre)] if norm == "sum" and ln is not None else h_0
            else:
                if sustained == "preliminary":
                    pre = sum_of(matrix_times(w, h_0), from_x)
                    if norm == "slow" and ln is not None:
                        pre = ln(pre)
                h = h_0
                for _ in range(inner_steps):
                    kept = h if sustained == "identity" else pre
                    bracket = sum_of(kept, matrix_times(a, h))
                    if norm in ("sum", "both") and ln is not None:
                        bracket = ln(bracket)
                    h = [relu_of(e) for e in bracket]
            if write == "final":
                a = _decay_and_write(a, decay, rate, h if t in stored else None)
            hs[b, t] = h
            if wipe and t in stored:
                h = [0.0] * size
        final["h"][b] = h
        final["A"][b] = a
    return hs, final


def rnn(
    p: Params, x: Array, *, activation: Literal["relu", "tanh"], norm: bool
) -> tuple[Array, States]:
    """The plain recurrent network, h = f(bias + W h + U x), and the IRNN. x (B, T, I).

    Parameters: core.wh = W (R, R), core.wx = U (R, I), core.bias (R,); with norm also
    core.norm.weight and core.norm.bias (R,): h = f(LN[bias + W h + U x]). h(0) = 0.

    Returns hs (B, T, R) and {'h': (B, R)}.
    """
    check_choice("activation", activation, ("relu", "tanh"))
    f = relu_of if activation == "relu" else math.tanh
    batch, time, inputs = sizes_of(x)
    size = p["core.wh"].shape[0]
    wh, wx = as_mat(p["core.wh"], size, size), as_mat(p["core.wx"], size, inputs)
    bias = as_vec(p["core.bias"], size)
    ln = norm_of(p, "core.norm", size) if norm else None

    hs = np.zeros((batch, time, size))
    final = {"h": np.zeros((batch, size))}
    for b in range(batch):
        h = [0.0] * size
        for t in range(time):
            pre = sum_of(bias, matrix_times(wh, h), matrix_times(wx, as_vec(x[b, t])))
            if ln is not None:
                pre = ln(pre)
            h = [f(e) for e in pre]
            hs[b, t] = h
        final["h"][b] = h
    return hs, final


def lstm(p: Params, x: Array, *, norm: bool) -> tuple[Array, States]:
    """The LSTM with one bias, gates in the order i, f, g, o. x (B, T, I).

    Parameters: core.wx (4R, I), core.wh (4R, R), core.bias (4R,). h(0) = c(0) = 0.
    gates = Wx x + Wh h + bias; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c).

    With norm ([N]): core.norm_h.* and core.norm_x.* (4R,) and core.norm_c.* (R,), `*` weight
    and bias: gates = LN(Wh h; norm_h) + LN(Wx x; norm_x) + bias, each LN over all 4R numbers at
    once; h = sigmoid(o) tanh(LN(c; norm_c)); the c carried on, and returned, is not normalized.

    Returns hs (B, T, R) and {'h': (B, R), 'c': (B, R)}.
    """
    batch, time, inputs = sizes_of(x)
    size = p["core.wh"].shape[1]
    wh, wx = as_mat(p["core.wh"], 4 * size, size), as_mat(p["core.wx"], 4 * size, inputs)
    bias = as_vec(p["core.bias"], 4 * size)
    lns = None
    if norm:
        lns = (
            norm_of(p, "core.norm_h", 4 * size),
            norm_of(p, "core.norm_x", 4 * size),
            norm_of(p, "core.norm_c", size),
        )

    hs = np.zeros((batch, time, size))
    final = {"h": np.zeros((batch, size)), "c": np.zeros((batch, size))}
    for b in range(batch):
        h = [0.0] * size
        c = [0.0] * size
        for t in range(time):
            from_h, from_x = matrix_times(wh, h), matrix_times(wx, as_vec(x[b, t]))
            if lns is not None:
                from_h, from_x = lns[0](from_h), lns[1](from_x)
            gates = sum_of(from_h, from_x, bias)
            for r in range(size):
                i, f = sigmoid_of(gates[r]), sigmoid_of(gates[size + r])
                c[r] = f * c[r] + i * math.tanh(gates[2 * size + r])
            shown = c if lns is None else lns[2](c)
            h = [sigmoid_of(gates[3 * size + r]) * math.tanh(shown[r]) for r in range(size)]
            hs[b, t] = h
        final["h"][b] = h
        final["c"][b] = c
    return hs, final


def gru(p: Params, x: Array, *, norm: bool) -> tuple[Array, States]:
    """The GRU as torch defines it, gates in the order r, z, n. x (B, T, I).

    Parameters: core.wx (3R, I), core.wh (3R, R), core.bias (3R,), core.bias_n (R,). h(0) = 0.
    r = sigmoid(Wxr x + br + Whr h); z = sigmoid(Wxz x + bz + Whz h);
    n = tanh(Wxn x + bn + r * (Whn h + bias_n)); h' = (1 - z) n + z h.

    With norm: core.norm_x.* and core.norm_h.* (3R,), `*` weight and bias: LN over all 3R
    numbers of Wx x and over all 3R numbers of Wh h, before the sums.

    Returns hs (B, T, R) and {'h': (B, R)}.
    """
    batch, time, inputs = sizes_of(x)
    size = p["core.wh"].shape[1]
    wh, wx = as_mat(p["core.wh"], 3 * size, size), as_mat(p["core.wx"], 3 * size, inputs)
    bias, bias_n = as_vec(p["core.bias"], 3 * size), as_vec(p["core.bias_n"], size)
    lns = None
    if norm:
        lns = (norm_of(p, "core.norm_h", 3 * size), norm_of(p, "core.norm_x", 3 * size))

    hs = np.zeros((batch, time, size))
    final = {"h": np.zeros((batch, size))}
    for b in range(batch):
        h = [0.0] * size
        for t in range(time):
            from_h, from_x = matrix_times(wh, h), matrix_times(wx, as_vec(x[b, t]))
            if lns is not None:
                from_h, from_x = lns[0](from_h), lns[1](from_x)
            from_x = sum_of(from_x, bias)
            new = [0.0] * size
            for i in range(size):
                r = sigmoid_of(from_x[i] + from_h[i])
                z = sigmoid_of(from_x[size + i] + from_h[size + i])
                n = math.tanh(from_x[2 * size + i] + r * (from_h[2 * size + i] + bias_n[i]))
                new[i] = (1.0 - z) * n + z * h[i]
            h = new
            hs[b, t] = h
        final["h"][b] = h
    return hs, final


def _bounded(z: complex) -> complex:
    """Z / max(1, |z|)."""
    return z / max(1.0, math.hypot(z.real, z.imag))


def alstm(p: Params, x: Array, *, permutations: list[list[int]]) -> tuple[Array, States]:
    """The associative LSTM of Danihelka et al. 2016 (arXiv 1602.03032). x (B, T, I).

    Parameters: core.wx (9 R/2, I), core.wh (9 R/2, R), core.bias (9 R/2,); rows in nine parts of
    R/2: the gates i, f, o; the real parts of u, r_i, r_o; their imaginary parts. h is a list of
    the real parts and then of the imaginary parts of R/2 complex numbers. h(0) = c(0) = 0.

    u, r_i, r_o are bounded. For each copy s, whose key has the element permutations[s][k] of r in
    the place k: c_s = sigmoid(f) c_s + key_i (sigmoid(i) u), and h = sigmoid(o) bound(mean of
    key_o c_s over the copies).

    Returns hs (B, T, R) and {'h': (B, R), 'c_real': (B, N, R/2), 'c_imag': (B, N, R/2)}.
    """
    batch, time, inputs = sizes_of(x)
    size, copies = p["core.wh"].shape[1], len(permutations)
    half = size // 2
    wh, wx = as_mat(p["core.wh"], 9 * half, size), as_mat(p["core.wx"], 9 * half, inputs)
    bias = as_vec(p["core.bias"], 9 * half)

    hs = np.zeros((batch, time, size))
    parts = (batch, copies, half)
    final = {"h": hs[:, 0] * 0, "c_real": np.zeros(parts), "c_imag": np.zeros(parts)}
    for b in range(batch):
        h = [0.0] * size
        c = [[0j] * half for _ in range(copies)]
        for t in range(time):
            pre = sum_of(matrix_times(wh, h), matrix_times(wx, as_vec(x[b, t])), bias)
            i, f, o = ([sigmoid_of(pre[part * half + k]) for k in range(half)] for part in range(3))
            u, r_i, r_o = (
                [
                    _bounded(complex(pre[part * half + k], pre[(part + 3) * half + k]))
                    for k in range(half)
                ]
                for part in range(3, 6)
            )
            read = [0j] * half
            for s, order in enumerate(permutations):
                for k in range(half):
                    c[s][k] = f[k] * c[s][k] + r_i[order[k]] * (i[k] * u[k])
                    read[k] += r_o[order[k]] * c[s][k]
            for k in range(half):
                shown = o[k] * _bounded(read[k] / copies)
                h[k], h[half + k] = shown.real, shown.imag
            hs[b, t] = h
        final["h"][b] = h
        final["c_real"][b] = [[z.real for z in row] for row in c]
        final["c_imag"][b] = [[z.imag for z in row] for row in c]
    return hs, final


def _glimpse_features(p: Params, picture: Mat) -> Vec:
    """One picture through two layers of convolution, see `convnet`. picture (S, S) -> (R,)."""
    side = len(picture)
    k1, b1 = p["core.conv1.weight"].tolist(), as_vec(p["core.conv1.bias"])
    k2, b2 = p["core.conv2.weight"].tolist(), as_vec(p["core.conv2.bias"])
    places = range(0, side - 2, 2)  # where a window of 3 fits
    pooled: list[Mat] = []
    for channel in range(len(b1)):
        seen: Mat = []
        for row in range(side):
            seen.append([])
            for column in range(side):
                total = b1[channel]
                for i in range(3):
                    for j in range(3):
                        y, z = row + i - 1, column + j - 1
                        if 0 <= y < side and 0 <= z < side:
                            total += k1[channel][0][i][j] * picture[y][z]
                seen[row].append(relu_of(total))
        pooled.append(
            [
                [max(seen[y + i][z + j] for i in range(3) for j in range(3)) for z in places]
                for y in places
            ]
        )
    out: Vec = []
    for channel in range(len(b2)):
        total = b2[channel]
        for source in range(len(b1)):
            for i in range(len(places)):
                for j in range(len(places)):
                    total += k2[channel][source][i][j] * pooled[source][i][j]
        out.append(relu_of(total))
    return out


def convnet(p: Params, x: Array) -> tuple[Array, States]:
    """Three layers over glimpses. x (B, T, S*S), each step the rows of an S x S picture.

    Parameters: core.conv1.weight (R, 1, 3, 3) and .bias (R,): a picture padded with one row of 0
    on each side, then ReLU and the largest of each 3x3 window, windows 2 apart and whole.
    core.conv2.weight (R, R, Q, Q) and .bias (R,): one number a kernel from all that is left, which
    is Q x Q; ReLU. core.w (at least T, R, R), core.bias (R,): ReLU(bias + sum of w[t] v(t)).

    Returns hs (B, T, R), the features after each step, and {'h': (B, R)}, the last sum without
    bias and ReLU.
    """
    batch, time, pixels = sizes_of(x)
    side = math.isqrt(pixels)
    size = p["core.bias"].shape[0]
    bias = as_vec(p["core.bias"], size)
    hs, final = np.zeros((batch, time, size)), {"h": np.zeros((batch, size))}
    for b in range(batch):
        total = [0.0] * size
        for t in range(time):
            v = _glimpse_features(p, as_mat(x[b, t].reshape(side, side)))
            total = sum_of(total, matrix_times(as_mat(p["core.w"][t], size, size), v))
            hs[b, t] = [relu_of(e) for e in sum_of(total, bias)]
        final["h"][b] = total
    return hs, final


# --- the whole network, section 2 ---------------------------------------------------------


def network(
    p: Params,
    inputs: npt.NDArray[Any],
    *,
    encoder: Literal["embedding", "linear", "none"],
    core: Core,
    head: Literal["hidden", "plain"] | None = None,
) -> Array:
    """Encoder -> core -> the last h -> head, section 2 -> logits (B, K).

    encoder 'embedding': inputs are ids (B, T), encoder.weight (symbols, E). 'linear': inputs
    (B, T, I), relu(W x + b) with encoder.weight (E, I), encoder.bias (E,). 'none': inputs
    (B, T, I) go to the core as they are.
    core: a callable (p, x (B, T, E)) -> (hs (B, T, R), final); it reads its own core.* of p. The
    head sees hs[:, T-1], which a wipe at the last step does not touch.
    head 'hidden': relu(head.hidden.weight (M, R) h + head.hidden.bias (M,)), then
    head.output.weight (K, M), head.output.bias (K,). 'plain': head.output alone, (K, R). None:
    'hidden' if p has head.hidden.weight, else 'plain'.
    """
    check_choice("encoder", encoder, ("embedding", "linear", "none"))
    if head is None:
        head = "hidden" if "head.hidden.weight" in p else "plain"
    check_choice("head", head, ("hidden", "plain"))
    if encoder == "embedding":
        x = embedding(p["encoder.weight"], inputs)
    else:
        x = np.asarray(inputs, dtype=np.float64)
        if encoder == "linear":
            x = relu(linear(p["encoder.weight"], p["encoder.bias"], x))
    hs, _ = core(p, x)
    v: Array = hs[:, hs.shape[1] - 1]
    if head == "hidden":
        v = relu(linear(p["head.hidden.weight"], p["head.hidden.bias"], v))
    return linear(p["head.output.weight"], p["head.output.bias"], v)


# --- glimpses, section 4 ------------------------------------------------------------------


def glimpses(image: Array) -> Array:
    """The 24 glimpses of the 'multi-level' policy, section 4.

    image (28, 28), values 0..255 -> (24, 49), values 0..1. For each 14x14 quadrant in raster
    order: coarse, the four fine 7x7 patches in raster order, coarse again; coarse is the
    quadrant's 2x2 average pool; the 49 numbers of a glimpse are in raster order.
    """
    pixels = as_mat(image, 28, 28)
    out: Mat = []
    for top in (0, 14):
        for left in (0, 14):
            coarse: Vec = []
            for i in range(7):
                for j in range(7):
                    total = 0.0
                    for di in range(2):
                        for dj in range(2):
                            total += pixels[top + 2 * i + di][left + 2 * j + dj]
                    coarse.append(total / 4.0 / 255.0)
            out.append(coarse)
            for down in (0, 7):
                for right in (0, 7):
                    fine: Vec = []
                    for i in range(7):
                        for j in range(7):
                            fine.append(pixels[top + down + i][left + right + j] / 255.0)
                    out.append(fine)
            out.append(coarse)
    return np.array(out, dtype=np.float64)


# --- gradients ----------------------------------------------------------------------------


def numeric_gradient(
    f: Callable[[Params], float], p: Params, name: str, eps: float = 1e-6
) -> Array:
    """Central differences (f(v + eps) - f(v - eps)) / 2 eps for every element of p[name].

    f is called with a copy of p in which one element of p[name] is moved; p is not changed.
    Returns an array of p[name]'s shape.
    """
    start = np.array(p[name], dtype=np.float64)
    grad = np.zeros(start.shape)
    for index in np.ndindex(start.shape):
        value = float(start[index])
        ends: Vec = []
        for moved in (value + eps, value - eps):
            array = start.copy()
            array[index] = moved
            ends.append(float(f({**p, name: array})))
        grad[index] = (ends[0] - ends[1]) / ((value + eps) - (value - eps))
    return grad
