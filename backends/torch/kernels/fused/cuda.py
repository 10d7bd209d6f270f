"""The fused core on CUDA: one Triton kernel each way, one program a sequence, for all time steps.

Forward, one time step of one sequence (eq. 1 to 3 of `fwt.fwcore.cells.fast_weights`, eq. 4 for the
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

# pyright: reportCallIssue=false
# a launch of Triton's takes options that its types do not name

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fwt.backends.torch.kernels.fused.kept import empty
from fwt.backends.torch.kernels.fused.triton_backward import backward_kernel
from fwt.backends.torch.kernels.fused.triton_forward import forward_kernel
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON

# by sequence: the slow brackets W h + C x; the brackets, normalised where there is a norm, and 1 /
# their standard deviations; A at the borders; what a variant has no use for stays as it was
KEPT = {"pre": "P B T R", "y": "P B K T R", "rstd": "P B K T", "borders": "P B C R R"}
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
    decay: Tensor,
    rate: Tensor,
    chunk: int,
) -> list[Tensor]:
    """All time steps of all sequences: see `fwt.backends.torch.kernels.fused.operator`.

    Args:
        z: slow input, (P, B, T, R).
        w: slow weights, (P, N, R, R).
        which: of the N, each step's, int64 (T,).
        stores: whether a step's state is written into A, bool (T,).
        wipe: whether h is zero after a write.
        inner: S.
        norm: layer norm of the bracket, with `gain` and `bias` (P, R).
        decay, rate: lambda and eta, (P,).
        chunk: time steps between two borders; T or more has none.

    Returns:
        The states (P, B, T, R), and what is kept, by `KEPT`.
    """
    members, batch, steps, size = z.shape
    chunk = min(chunk, steps)
    out, pre, y, rstd, borders = found = [torch.empty_like(z), *empty(KEPT, z, inner, chunk)]
    shape = _shape(size, steps, z.dtype)
    with torch.cuda.device_of(z):
        forward_kernel[(members * batch,)](
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
            epsilon=LAYER_NORM_EPSILON,
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
        backward_kernel[(members * batch,)](
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
