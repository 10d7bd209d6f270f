"""The time loop of the fast-weights cell as one function with a backward derived by hand.

Autodiff of the loop collects, for every stored state, one array from each later step. Here a step
adds its part to all earlier states at once, the gradient of W is one product over all steps, and
A is built at chunk borders only. With weights[a] = rate decay^a and powers[a] = decay^a, t0 the
last border and tau the states stored since:

    pre = z(t) + W h(t-1),  s_0 = relu(pre),
    u_k = pre + powers[t-t0] A(t0) s_k + sum over tau of weights[t-1-tau] h_tau (h_tau . s_k),
    s_{k+1} = relu(gain LN(u_k) + bias), or relu(u_k) without norm,  h(t) = s_S.

Backward, from the last step to the first. With p_tau = h_tau . s_k and q_tau = h_tau . du_k, one
read gives A du_k to s_k, weights (p_tau du_k + q_tau s_k) to h_tau and p_tau q_tau to weights.
Across a border G = dL/dA(t0) is carried, and a state gets weights (G + G^T) h_tau.

Written for the CPU of MLX. Arrays have time first and a step is (1, B, R), so that it is a block of
memory and no primitive goes into reshaping, each of which costs a hand-over between threads.
Scores and reads are products and sums, as BLAS would be called once a sequence; their factors are
spread by strides, because a broadcast would be compiled into the product and lose the vectors. A
kernel compiled by `mx.compile` costs half a second once: all steps are written alike, and
`mx.contiguous`, which copies nothing here, ends a kernel where it would differ between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

Tree = dict[str, Any]  # arrays, and lists and dicts of arrays
Pair = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Schedule:
    """What is fixed while the loop is traced.

    Attributes:
        which: for each time step, the number of the slow weights it uses.
        stores: for each time step, whether h is written into A after it.
        wipe: whether h is zero for the step after a write.
        inner: S.
        epsilon: of the layer norm; None for no norm.
        chunk: time steps between two borders.
    """

    which: tuple[int, ...]
    stores: tuple[bool, ...]
    wipe: bool
    inner: int
    epsilon: float | None
    chunk: int

    def chunks(self) -> list[range]:
        """The time steps between borders."""
        steps = len(self.which)
        return [range(t, min(t + self.chunk, steps)) for t in range(0, steps, self.chunk)]

    def written(self, steps: range) -> list[int]:
        """Those of the steps whose state is stored and may be read."""
        return [t for t in steps if self.inner and self.stores[t]]

    def brackets(self, reads: bool) -> int:
        """How many brackets a step computes; where nothing is read, all of them are the same."""
        return self.inner if reads else int(self.inner > 0 or self.epsilon is not None)

    def passes(self, t: int) -> bool:
        """Whether step t + 1 sees h(t)."""
        return not (self.wipe and self.stores[t])


def time_loop(schedule: Schedule) -> Callable[[Tree], Tree]:
    """The time loop as a function of its arrays, with its own gradient.

    It takes `z` (T, B, R), `w`, a list of (R, R), `weights` (chunk, 1, 1), the oldest first, so
    that `weights[-1]` is of age 0, `powers` (chunk + 1,), with a norm `gain` and `bias` (R,), and
    where a state is given `h` (1, B, R) and `A` (B, R, R). It returns `outputs` (T, B, R) and the
    last of them as `last` (1, B, R).

    The gradient asks for the forward pass again. `mx.compile` finds that it is the same and runs
    it once; handed over as results, what the gradient needs made tracing cubic in T.
    """

    @mx.custom_function
    def run(p: Tree) -> Tree:
        results = _forward(schedule, p)
        return {name: results[name] for name in ("outputs", "last")}

    @run.vjp
    def _gradient(p: Tree, cotangents: Tree, _: Tree) -> Tree:
        return _Backward(schedule, p, _forward(schedule, p)).run(cotangents)

    return cast("Callable[[Tree], Tree]", run)


# --- forward ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """The fast memory as the reads of one time step see it.

    Attributes:
        fast: A of the last border, (B, R, R); None before the first.
        power: what is left of it.
        past: the states stored since, (n, B, R), and their weights, (n, 1, 1); None while there
            are none.
    """

    fast: mx.array | None
    power: mx.array
    past: Pair | None

    def read(self, query: mx.array) -> tuple[mx.array, Tree]:
        """A times the query, both (1, B, R), and what the gradient of the read needs."""
        found: Tree = {"query": query}
        parts = []
        if self.fast is not None:
            found["fast"] = _row_product(query, self.fast)
            parts.append(self.power * found["fast"])
        if self.past is not None:
            past, weights = self.past
            _, batch, size = past.shape
            spread = mx.as_strided(query, past.shape, (0, size, 1))
            found["scores"] = mx.sum(past * spread, axis=-1, keepdims=True)
            spread = mx.as_strided(weights, found["scores"].shape, (1, 0, 0))
            found["weighted"] = found["scores"] * spread
            spread = mx.as_strided(found["weighted"], past.shape, (batch, 1, 0))
            parts.append(mx.sum(spread * past, axis=0, keepdims=True))
        return sum(parts[1:], parts[0]), found


def _row_product(row: mx.array, matrix: mx.array) -> mx.array:
    """A row times a matrix for each sequence: (1, B, R), (B, R, R) -> (1, B, R)."""
    return mx.swapaxes(mx.swapaxes(row, 0, 1) @ matrix, 0, 1)


def _weights(p: Tree, written: Sequence[int], t: int) -> mx.array:
    """weights[t-1-tau] of the states `written` at step t: (n, 1, 1)."""
    return _chosen(p["weights"], [len(p["weights"]) - t + tau for tau in written])


def _chosen(x: mx.array, places: list[int]) -> mx.array:
    """Some places of the first axis: (N, ...) -> (n, ...)."""
    first, stop = places[0], places[-1] + 1
    adjoining = places == list(range(first, stop))
    return x[first:stop] if adjoining else x[mx.array(places)]


def _view(schedule: Schedule, p: Tree, kept: Tree, before: range) -> _View | None:
    """The memory after the steps `before` of a chunk; None where nothing is read."""
    written = schedule.written(before)
    if not schedule.inner or not (written or "fast" in kept):
        return None
    past = None
    if written:
        past = kept["past"][: len(written)], _weights(p, written, before.stop)
    return _View(kept.get("fast"), p["powers"][len(before)], past)


def _forward(schedule: Schedule, p: Tree) -> Tree:
    """All steps; `steps` and `chunks` of the result are kept for the backward pass."""
    turned = [mx.contiguous(w.T) for w in p["w"]]  # a product with W costs less than one with W^T
    _, batch, size = p["z"].shape
    outputs: list[mx.array] = []
    results: Tree = {"steps": [], "chunks": []}
    zeros = mx.zeros((1, batch, size), dtype=p["z"].dtype)
    h, fast = p.get("h", zeros), p.get("A")
    for steps in schedule.chunks():
        kept: Tree = {} if fast is None else {"fast": fast}
        written = schedule.written(steps)
        if written:
            kept["past"] = mx.zeros((len(written), batch, size), dtype=p["z"].dtype)
        for t in steps:
            slow = mx.addmm(p["z"][t : t + 1], h, turned[schedule.which[t]])
            h, brackets = _step(schedule, p, slow, _view(schedule, p, kept, range(steps.start, t)))
            outputs.append(h)
            results["steps"].append(brackets)
            if t in written:
                place = len(schedule.written(range(steps.start, t)))
                kept["past"][place : place + 1] = h
            h = h if schedule.passes(t) else zeros
        results["chunks"].append(kept)
        fast = _fold(schedule, p, kept, steps)
    whole = written == list(range(len(outputs)))
    results["outputs"] = kept["past"] if whole else mx.concatenate(outputs)
    results["last"] = outputs[-1]
    return results


def _step(
    schedule: Schedule, p: Tree, slow: mx.array, view: _View | None
) -> tuple[mx.array, list[Tree]]:
    """Equations 2 and 3: h, and of each bracket what the backward pass needs."""
    h, brackets = mx.maximum(slow, 0), []
    for _ in range(schedule.brackets(view is not None)):
        bracket, found = (slow, {}) if view is None else view.read(h)
        bracket = bracket if view is None else slow + bracket
        if schedule.epsilon is None:
            h = mx.maximum(bracket, 0)
        else:
            centred = bracket - mx.mean(bracket, axis=-1, keepdims=True)
            variance = mx.mean(centred * centred, axis=-1, keepdims=True)
            scale = mx.rsqrt(variance + schedule.epsilon)
            h = mx.maximum(p["gain"] * (centred * scale) + p["bias"], 0)
            found |= {"centred": centred, "scale": scale}
        brackets.append({**found, "result": h})
    return h, brackets


def _fold(schedule: Schedule, p: Tree, kept: Tree, steps: range) -> mx.array | None:
    """A at the border after the steps, (B, R, R); None while nothing is stored."""
    fast = p["powers"][len(steps)] * kept["fast"] if "fast" in kept else None
    if "past" not in kept:
        return fast
    past, weights = kept["past"], _weights(p, schedule.written(steps), steps.stop)
    new = mx.transpose(past, (1, 2, 0)) @ mx.swapaxes(past * weights, 0, 1)
    return new if fast is None else fast + new


# --- backward -----------------------------------------------------------------------------


def _masked(gradient: mx.array, result: mx.array) -> mx.array:
    """A gradient through the ReLU that gave `result`, also where that is not a number."""
    return mx.where(result <= 0, 0, gradient)


def _gathered(parts: list[tuple[list[int], mx.array]], like: mx.array) -> mx.array:
    """Numbers added up at their places, in the shape of `like`."""
    total = mx.zeros_like(like)
    if not parts:
        return total
    places = mx.array([place for found, _ in parts for place in found])
    numbers = mx.concatenate([numbers for _, numbers in parts])
    return total.at[places].add(numbers.reshape(-1, *like.shape[1:]))


@dataclass
class _Backward:
    """One backward pass: what is given, and what its steps add up.

    Attributes:
        slow: the gradient of W h + C x of each step done, (1, B, R).
        gain, bias: their gradients for each sequence, (1, B, R); None without a norm.
        weights, powers: parts of their gradients: places in them, and a number for each.
    """

    schedule: Schedule
    p: Tree
    results: Tree
    slow: dict[int, mx.array] = field(default_factory=dict)
    gain: mx.array | None = None
    bias: mx.array | None = None
    weights: list[tuple[list[int], mx.array]] = field(default_factory=list)
    powers: list[tuple[list[int], mx.array]] = field(default_factory=list)

    def run(self, outer: Tree) -> Tree:
        """Gradients of all of `p` from those of `outputs` and `last`."""
        p, last = self.p, len(self.schedule.which) - 1
        if self.schedule.epsilon is not None:
            self.gain = self.bias = mx.zeros_like(outer["last"])
        border = None
        chunks = zip(self.schedule.chunks(), self.results["chunks"], strict=True)
        for steps, kept in reversed(list(chunks)):
            states, border = self._unfold(steps, kept, outer["outputs"], border)
            reads: list[Pair] = []
            for t in reversed(steps):
                place = len(self.schedule.written(range(steps.start, t)))
                given = outer["outputs"][t : t + 1]
                if self.schedule.written(range(t, t + 1)):
                    given = states[place : place + 1]
                given = mx.contiguous(given + outer["last"]) if t == last else given
                for more in self._step(t, given, kept, range(steps.start, t), reads):
                    states = states[:place] + more
            border = _with_products(border, reads)
        z = mx.concatenate([self.slow[t] for t in range(last + 1)])
        found: Tree = {"z": z, "w": slow_weights(self.schedule, p, z, self.results["outputs"])}
        if self.gain is not None and self.bias is not None:
            found |= {"gain": mx.sum(self.gain, (0, 1)), "bias": mx.sum(self.bias, (0, 1))}
        found["weights"] = _gathered(self.weights, p["weights"])
        found["powers"] = _gathered(self.powers, p["powers"])
        if "h" in p:
            found["h"] = self.slow[0] @ p["w"][self.schedule.which[0]]
        if "A" in p:
            found["A"] = mx.zeros_like(p["A"]) if border is None else border
        return {name: found[name] for name in p}  # MLX matches gradients to arrays by their place

    def _unfold(
        self, steps: range, kept: Tree, outer: mx.array, border: mx.array | None
    ) -> tuple[mx.array, mx.array | None]:
        """What the outside and dL/dA at the border after the steps give to their stored states.

        Returns:
            It, (n, B, R), and what the border gives to dL/dA at the one before the steps.
        """
        written = self.schedule.written(steps)
        states = _chosen(outer, written) if written else outer  # else not read
        if border is None:
            return states, None
        if written:
            past, weights = kept["past"], _weights(self.p, written, steps.stop)
            both = border + mx.swapaxes(border, 1, 2)
            moved = mx.swapaxes(mx.swapaxes(past, 0, 1) @ both, 0, 1)
            states = states + weights * moved
            places = [self.schedule.chunk - steps.stop + t for t in written]
            self.weights.append((places, mx.sum(past * moved, axis=(1, 2)) / 2))
        if "fast" not in kept:
            return states, None
        self.powers.append(([len(steps)], mx.sum(border * kept["fast"])[None]))
        return states, self.p["powers"][len(steps)] * border

    def _step(
        self, t: int, given: mx.array, kept: Tree, before: range, reads: list[Pair]
    ) -> list[mx.array]:
        """One time step, from the gradient of h(t) by way of memory and outputs.

        Args:
            before: the steps of its chunk before it.
            reads: gets the factors of its part of the gradient of A at the border before.

        Returns:
            Its parts of the gradient of the states stored since, (n, B, R).
        """
        schedule, brackets = self.schedule, self.results["steps"][t]
        if t + 1 in self.slow and schedule.passes(t):
            given = mx.addmm(given, self.slow[t + 1], self.p["w"][schedule.which[t + 1]])
        view = _view(schedule, self.p, kept, before)
        parts: list[mx.array] = []
        writes: list[mx.array] = []
        for found in reversed(brackets):
            bracket = self._normalise(found, _masked(given, found["result"]))
            parts.append(bracket)
            if view is not None:
                given = self._read(found, bracket, view, before, reads, writes)
        if view is not None:
            parts.append(mx.contiguous(_masked(given, brackets[0]["query"])))
        if not brackets:
            parts.append(_masked(given, self.results["outputs"][t : t + 1]))
        self.slow[t] = sum(parts[1:], parts[0])
        return writes

    def _normalise(self, found: Tree, outer: mx.array) -> mx.array:
        """The gradient of the bracket from that of its norm: (1, B, R) -> (1, B, R)."""
        if self.gain is None or self.bias is None:
            return outer
        centred, scale = found["centred"], found["scale"]
        self.gain = mx.contiguous(self.gain + outer * (centred * scale))
        self.bias = mx.contiguous(self.bias + outer)
        inner = outer * mx.as_strided(self.p["gain"], outer.shape, (0, 0, 1))
        along = mx.mean(inner * centred, axis=-1, keepdims=True) * (scale * scale)
        bracket: mx.array = scale * (
            inner - mx.mean(inner, axis=-1, keepdims=True) - centred * along
        )
        return bracket

    def _read(
        self,
        found: Tree,
        bracket: mx.array,
        view: _View,
        before: range,
        reads: list[Pair],
        writes: list[mx.array],
    ) -> mx.array:
        """The gradient A du of the query; what the memory gets is added to `reads` and `writes`."""
        given, again = view.read(bracket)  # A du, for A is symmetric
        if view.fast is not None:
            reads.append((found["query"], view.power * bracket))
            self.powers.append(([len(before)], mx.sum(bracket * found["fast"])[None]))
        if view.past is not None:
            writes.append(found["weighted"] * bracket + again["weighted"] * found["query"])
            written = self.schedule.written(before)
            places = [self.schedule.chunk - before.stop + t for t in written]
            self.weights.append((places, mx.sum(found["scores"] * again["scores"], axis=(1, 2))))
        return given


def slow_weights(schedule: Schedule, p: Tree, z: mx.array, outputs: mx.array) -> list[mx.array]:
    """The gradient of each of `w`: one product over all steps that used it.

    Args:
        p: the arrays of the loop.
        z: the gradient of W h + C x, (T, B, R).
        outputs: the states, (T, B, R).
    """
    before = mx.concatenate([p.get("h", mx.zeros_like(z[:1])), outputs[:-1]])
    passes = [True, *(schedule.passes(t) for t in range(len(outputs) - 1))]
    if not all(passes):
        before = mx.where(mx.array(passes)[:, None, None], before, 0)
    found, size = [], z.shape[2]
    for number, w in enumerate(p["w"]):
        steps = [t for t, n in enumerate(schedule.which) if n == number]
        rows = [_chosen(a, steps).reshape(-1, size) for a in (z, before)] if steps else []
        found.append(rows[0].T @ rows[1] if rows else mx.zeros_like(w))
    return found


def _with_products(total: mx.array | None, pairs: list[Pair]) -> mx.array | None:
    """`total` (B, R, R) and the outer products of all pairs of rows (1, B, R)."""
    if not pairs:
        return total
    left, right = (mx.concatenate(list(rows)) for rows in zip(*pairs, strict=True))
    new = mx.transpose(left, (1, 2, 0)) @ mx.swapaxes(right, 0, 1)
    return new if total is None else total + new
