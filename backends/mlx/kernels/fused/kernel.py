"""The time loop of `loop.py` as GPU kernels, for Metal and CUDA from one body.

`kernel_forward.h` and `kernel_backward.h` are the bodies; `kernel_metal.h` and `kernel_cuda.h` hold
all that differs. One group of threads runs one sequence, all time steps of it, each thread some of
the R units. Within a chunk the past is read by attention (eq. 4), from the output itself; at a
chunk's border A is folded and kept. The backward pass runs the steps in reverse and never rebuilds
A; what it adds up over sequences or time steps, and every product that is one for all of them, is
left to MLX. No atomics: the same numbers give the same bits.

Only R and the number of threads are compiled in, so a batch, a length or a variant builds nothing
new. None of it was ever run on a GPU by its authors: `check.py` decides on the device it is to run
on, and tests run the same bodies as C++.

Arrays (T time steps, B sequences, R hidden units, S inner steps, K time steps a chunk, N sets of
slow weights; floats but for `plan`):

    plan        T, B, K, S, then whether norm, wipe, given h, given A; the first step that stores,
                or T; which of N (T), stores (T)
    z, grad     (T, B, R)     C x, and the gradient of out
    w           (N, R, R)     slow weights, transposed for the forward kernel
    weights     (K,)          rate decay^age, the oldest first
    powers      (K + 1,)      decay^age
    h, start_fast             the start state (B, R) and (B, R, R), if given
    out         (T, B, R)     the states
    queries     (S, T, B, R)  s_k
    normal      (S, T, B, R)  the brackets, normalised; also where S is 0, as if it were 1
    rstd        (S, T, B)     1 / their standard deviations, likewise
    borders     (chunks - 1, B, R, R)  A as each chunk but the first finds it
    brackets    (S, T, B, R)  gradients of the brackets
    d...        gradients; those of gain, bias, weights, powers for each sequence, (B, ...)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, cast

import mlx.core as mx

from fwt.backends.mlx.kernels.fused.loop import Schedule, Tree, slow_weights

# fmt: off
INPUTS = {
    "forward": [
        "plan", "z", "w", "gain", "bias", "epsilon", "weights", "powers", "h", "start_fast",
    ],
    "backward": [
        "plan", "grad", "out", "queries", "normal", "rstd", "borders", "w", "gain", "weights",
        "powers", "start_fast",
    ],
}
# fmt: on
OUTPUTS = {
    "forward": ["out", "queries", "normal", "rstd", "borders"],
    "backward": ["dz", "brackets", "dgain", "dbias", "dweights", "dpowers", "dfast"],
}
# MLX looks for these names in the source itself, not in its header
PLACES = {
    "metal": (
        "const int place = int(thread_index_in_threadgroup);\n"
        "const int sequence = int(threadgroup_position_in_grid.x);\n"
    ),
    "cuda": "const int place = int(threadIdx.x);\nconst int sequence = int(blockIdx.x);\n",
}
LARGEST = 512  # R whose vectors, nine at a time, surely fit 32 KB of threadgroup memory
LEAST = 8  # numbers of an array; Metal passes a smaller one in another address space
WIDTH, MOST = 32, 256  # threads of a group: a multiple of one, up to the other

Shape = tuple[int, ...]

# What runs a kernel; tests have another than `on_gpu`. It gets the direction, `forward` or
# `backward`, R, B, the arrays of `INPUTS`, flat, and the shapes of `OUTPUTS`, and gives these.
Runner = Callable[[str, int, int, list[mx.array], list[Shape]], list[mx.array]]


# --- the kernels on a device --------------------------------------------------------------


def language() -> str:
    """What the GPU of this machine is programmed in."""
    return "metal" if mx.metal.is_available() else "cuda"


def text(name: str) -> str:
    """One of the files of C beside this one."""
    return (
        files("fwt.backends.mlx.kernels.fused")
        .joinpath(f"kernel_{name}.h")
        .read_text(encoding="ascii")
    )


def source(direction: str, target: str) -> dict[str, Any]:
    """The arguments of `mx.fast.metal_kernel` or `cuda_kernel` that make a kernel.

    MLX keeps what it compiled under the name alone, so that the name must tell one source from
    another.
    """
    header, body = text(target) + text("common"), PLACES[target] + text(direction)
    digest = hashlib.sha256((header + body).encode()).hexdigest()[:16]
    return {
        "name": f"fwt_{direction}_{digest}",
        "input_names": INPUTS[direction],
        "output_names": OUTPUTS[direction],
        "source": body,
        "header": header,
    }


@cache
def _built(direction: str) -> Callable[..., list[mx.array]]:
    make = mx.fast.metal_kernel if language() == "metal" else mx.fast.cuda_kernel
    return cast("Callable[..., list[mx.array]]", make(**source(direction, language())))


def on_gpu(
    direction: str, size: int, groups: int, inputs: list[mx.array], shapes: list[Shape]
) -> list[mx.array]:
    """`Runner` on the GPU of this machine.

    Raises:
        RuntimeError, ValueError: MLX cannot compile or launch the kernel; the first call may raise
            when its results are evaluated.
    """
    threads = min(MOST, -(-size // WIDTH) * WIDTH)
    return _built(direction)(
        inputs=inputs,
        template=[("SIZE", size), ("THREADS", threads)],
        grid=(groups * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=shapes,
        output_dtypes=[inputs[1].dtype] * len(shapes),
    )


# --- the time loop ------------------------------------------------------------------------


def time_loop(schedule: Schedule, run: Runner) -> Callable[[Tree], Tree]:
    """`loop.time_loop` by the kernels; see there for what it takes and gives."""

    @mx.custom_function
    def kernels(p: Tree) -> Tree:
        return _forward(schedule, run, p)

    @kernels.vjp
    def _gradient(p: Tree, cotangents: Tree, results: Tree) -> Tree:
        return _backward(schedule, run, p, cotangents["out"], results)

    def whole(p: Tree) -> Tree:
        out = cast("Tree", kernels(p))["out"]
        return {"outputs": out, "last": out[-1:]}

    return whole


def _launch(
    run: Runner, direction: str, like: mx.array, arrays: Tree, shapes: dict[str, Shape]
) -> Tree:
    """The outputs of a kernel by name; no array is smaller than `LEAST`, left out or not used.

    Args:
        like: an array (T, B, R).
        arrays: those of the inputs that there are.
        shapes: of those of the outputs that there are.
    """
    names, empty = OUTPUTS[direction], mx.zeros((LEAST,), dtype=like.dtype)
    given = [_wide(arrays.get(name, empty)) for name in INPUTS[direction]]
    _, batch, size = like.shape
    found = run(direction, size, batch, given, [shapes.get(name, (LEAST,)) for name in names])
    return dict(zip(names, found, strict=True))


def _wide(array: mx.array) -> mx.array:
    """An array flat, with zeros at its end if it has less than `LEAST` numbers."""
    flat = array.reshape(-1)
    return flat if flat.size >= LEAST else mx.pad(flat, (0, LEAST - flat.size))


def _plan(schedule: Schedule, p: Tree) -> mx.array:
    steps, batch, _ = p["z"].shape
    norm = schedule.epsilon is not None
    fixed = [steps, batch, schedule.chunk, schedule.inner, norm, schedule.wipe, "h" in p, "A" in p]
    begin = (*schedule.stores, True).index(True)
    whole = [*fixed, begin, *schedule.which, *schedule.stores]
    return mx.array([int(n) for n in whole], dtype=mx.int32)


def _shared(schedule: Schedule, p: Tree) -> Tree:
    """What both kernels are given."""
    names = {"weights": "weights", "powers": "powers", "gain": "gain", "A": "start_fast"}
    return {
        "plan": _plan(schedule, p),
        **{name: p[key] for key, name in names.items() if key in p},
    }


def _forward(schedule: Schedule, run: Runner, p: Tree) -> Tree:
    steps, batch, size = p["z"].shape
    inner, row = schedule.inner, (steps, batch, size)
    shapes: dict[str, Shape] = {"out": row}
    given = _shared(schedule, p) | {key: p[key] for key in ("z", "bias", "h") if key in p}
    given["w"] = mx.swapaxes(mx.stack(p["w"]), 1, 2)
    if schedule.epsilon is not None:
        given["epsilon"] = mx.array([schedule.epsilon], dtype=p["z"].dtype)
        turns = max(inner, 1)
        shapes |= {"normal": (turns, *row), "rstd": (turns, steps, batch)}
    if inner:
        shapes["queries"] = (inner, *row)
        if len(schedule.chunks()) > 1:
            shapes["borders"] = (len(schedule.chunks()) - 1, batch, size, size)
    return _launch(run, "forward", p["z"], given, shapes)


def _backward(schedule: Schedule, run: Runner, p: Tree, outer: mx.array, results: Tree) -> Tree:
    """Gradients of all of `p` from that of `out`."""
    _, batch, size = outer.shape
    chunk, chunks = schedule.chunk, len(schedule.chunks())
    given = {**results, **_shared(schedule, p), "grad": outer, "w": mx.stack(p["w"])}
    shapes: dict[str, Shape] = {
        "dz": outer.shape,
        "dgain": (batch, size),
        "dbias": (batch, size),
        "dweights": (batch, chunk),
        "dpowers": (batch, chunk + 1),
    }
    if schedule.inner:
        shapes["brackets"] = (schedule.inner, *outer.shape)
        if chunks > 1 or "A" in p:
            shapes["dfast"] = (batch, size, size)
    kernel = _launch(run, "backward", outer, given, shapes)
    slopes = slow_weights(schedule, p, kernel["dz"], results["out"])
    found: Tree = {"z": kernel["dz"], "w": slopes}
    for name in ("gain", "bias", "weights", "powers"):
        found[name] = mx.sum(kernel[f"d{name}"], axis=0)
    found["weights"] = found["weights"].reshape(-1, 1, 1)
    if "h" in p:
        found["h"] = kernel["dz"][:1] @ p["w"][schedule.which[0]]
    if "A" in p:
        found["A"] = kernel["dfast"] if schedule.inner else mx.zeros_like(p["A"])
    return {name: found[name] for name in p}  # MLX matches gradients to arrays by their place
