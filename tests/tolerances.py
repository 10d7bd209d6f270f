"""How far two results may be apart: one table, and the functions that compare by it or exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Bound(NamedTuple):
    """The largest difference allowed, as a part of the largest wanted number, and why."""

    rtol: float
    reason: str


ROUNDING = "sums of a few hundred terms, each rounded to this type, in another order"
AMPLIFIED = "the same, passed through T steps of the recurrence"
FORMS = "the memory forms add the same terms in another order"
KINKS = "a ReLU unit that rounding switches moves its weights for good"
SPIKES = "a layer norm that divides by a small deviation enlarges it; later steps forget it"
FORGOTTEN = "rounding of the last steps; what came before has decayed, or is averaged out"
EIGHT_BITS = "bfloat16 rounds to 0.4 %; 11 time steps with 3 reads each enlarge it"
DIFFERENCES = "central differences of step 1e-6 are themselves good to about 1e-9"

# (quantity, dtype, pair) -> bound. A pair is `oracle` (the scalar loops, or a formula in a test),
# `own` (a framework's own layer), `self` (one backend, two ways), `drift` (float64 over thousands
# of steps), `float32` (for a smaller type), or two backends.
TOLERANCES: dict[tuple[str, str, str], Bound] = {
    ("outputs", "float64", "oracle"): Bound(1e-13, AMPLIFIED),
    ("outputs", "float32", "oracle"): Bound(2e-5, AMPLIFIED),
    ("states", "float64", "oracle"): Bound(1e-13, AMPLIFIED),
    ("states", "float32", "oracle"): Bound(2e-5, AMPLIFIED),
    ("outputs", "float64", "self"): Bound(1e-13, FORMS),
    ("outputs", "float32", "self"): Bound(2e-5, FORMS),
    ("states", "float64", "self"): Bound(1e-13, FORMS),
    ("states", "float32", "self"): Bound(2e-5, FORMS),
    ("outputs", "float32", "own"): Bound(1e-6, ROUNDING),
    ("outputs", "float64", "own"): Bound(1e-13, ROUNDING),
    ("logits", "float64", "oracle"): Bound(1e-13, AMPLIFIED),
    ("logits", "float32", "oracle"): Bound(2e-5, AMPLIFIED),
    ("logits", "float32", "self"): Bound(1e-6, "a compiled graph fuses multiplies and adds"),
    ("loss", "float64", "oracle"): Bound(1e-13, AMPLIFIED),
    ("loss", "float32", "oracle"): Bound(1e-5, AMPLIFIED),
    ("gradients", "float64", "oracle"): Bound(1e-6, DIFFERENCES),
    ("gradients", "float64", "self"): Bound(1e-11, AMPLIFIED),
    ("gradients", "float32", "self"): Bound(1e-4, AMPLIFIED),
    ("gradients", "float32", "torch-mlx"): Bound(1e-4, "the product's promise (fwt verify)"),
    ("updates", "float64", "oracle"): Bound(1e-12, ROUNDING),
    ("updates", "float32", "oracle"): Bound(2e-5, "weights near 1 move by 1e-2 an update"),
    ("moments", "float64", "oracle"): Bound(1e-13, ROUNDING),
    ("moments", "float32", "oracle"): Bound(2e-6, ROUNDING),
    ("training losses", "float32", "torch-mlx"): Bound(1e-4, KINKS),
    ("training losses", "float64", "torch-mlx"): Bound(1e-13, "30 updates amplify rounding"),
    ("trained", "float32", "torch-mlx"): Bound(1e-3, KINKS),
    ("trained", "float64", "torch-mlx"): Bound(1e-12, "30 updates amplify rounding"),
    ("training losses", "float32", "population"): Bound(1e-4, KINKS),
    ("training losses", "float64", "population"): Bound(1e-12, "30 updates amplify rounding"),
    ("training losses", "float32", "ranks"): Bound(1e-5, "parts of a batch are summed apart"),
    ("trained", "float32", "population"): Bound(1e-3, KINKS),
    ("trained", "float64", "population"): Bound(1e-12, "30 updates amplify rounding"),
    ("outputs", "float32", "drift"): Bound(1e-3, SPIKES),
    ("states", "float32", "drift"): Bound(1e-5, FORGOTTEN),
    ("gradients", "float32", "drift"): Bound(1e-4, AMPLIFIED),
    ("outputs", "bfloat16", "float32"): Bound(1e-1, EIGHT_BITS),
    ("states", "bfloat16", "float32"): Bound(1e-1, EIGHT_BITS),
    ("training losses", "bfloat16", "float32"): Bound(5e-2, "30 updates of rounded gradients"),
}


def assert_close(
    name: str,
    want: npt.ArrayLike,
    got: npt.ArrayLike,
    quantity: str,
    dtype: str,
    pair: str,
    floor: float = 0.0,
) -> float:
    """Hold `got` against `want` by the table's bound; gives back the relative difference.

    Args:
        name: what is compared, for the message.
        quantity, dtype, pair: the row of the table.
        floor: the least size the difference is taken relative to, for a quantity that may be 0.

    Raises:
        AssertionError: another shape, a number that is not finite, or too large a difference.
    """
    bound = TOLERANCES[quantity, dtype, pair]
    wanted, given = np.asarray(want, np.float64), np.asarray(got, np.float64)
    label = f"{name} ({quantity}, {dtype}, {pair})"
    assert wanted.shape == given.shape, f"{label}: shape {given.shape}, expected {wanted.shape}"
    assert wanted.size, f"{label}: nothing to compare"
    for kind, array in (("wanted", wanted), ("given", given)):
        assert np.isfinite(array).all(), f"{label}: {kind} numbers are not all finite"
    gap = np.abs(given - wanted)
    scale = max(float(np.abs(wanted).max()), floor)
    worst = float(gap.max())
    assert worst <= bound.rtol * scale, _report(label, wanted, given, gap, bound)
    return worst / scale if scale else 0.0


def _report(label: str, wanted: Any, given: Any, gap: Any, bound: Bound) -> str:
    place = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    rms = float(np.sqrt((wanted**2).mean()))
    ratio = float(np.sqrt((gap**2).mean())) / rms if rms else float("inf")
    return (
        f"{label}: max-abs {gap.max():.3e} of largest {np.abs(wanted).max():.3e}, "
        f"RMS ratio {ratio:.3e}, allowed {bound.rtol:.1e} ({bound.reason}); "
        f"worst at {place}: wanted {wanted[place]!r}, got {given[place]!r}"
    )


def assert_same(one: Any, other: Any) -> None:
    """Equal names, shapes, types and bytes."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.shape == other[name].shape
        assert array.tobytes() == other[name].tobytes(), name
