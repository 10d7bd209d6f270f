"""The comparison that all other tests rely on: it fails when it should."""

from __future__ import annotations

import numpy as np
import pytest

from fwt.fwcore.analysis import compare
from tests.tolerances import TOLERANCES, assert_close

ROW = ("outputs", "float32", "oracle")
BOUND = TOLERANCES[ROW].rtol
WANT = np.array([[1.0, -4.0, 2.0], [0.5, 0.25, 3.0]])


def moved(by: float) -> np.ndarray:
    got = WANT.copy()
    got[1, 2] += by
    return got


def test_equal_arrays_pass_and_give_their_difference() -> None:
    assert assert_close("x", WANT, WANT, *ROW) == 0
    assert assert_close("x", WANT, moved(4e-6), *ROW) == pytest.approx(1e-6)


def test_the_bound_is_relative_to_the_largest_number() -> None:
    assert_close("x", WANT, moved(0.99 * BOUND * 4), *ROW)
    with pytest.raises(AssertionError):
        assert_close("x", WANT, moved(1.01 * BOUND * 4), *ROW)
    with pytest.raises(AssertionError):
        assert_close("x", WANT, moved(-1.01 * BOUND * 4), *ROW)


def test_a_small_array_gets_no_slack() -> None:
    small = WANT * 1e-20
    with pytest.raises(AssertionError):
        assert_close("x", small, small * (1 + 2 * BOUND), *ROW)
    with pytest.raises(AssertionError):
        assert_close("x", np.zeros(2), np.array([0.0, 1e-30]), *ROW)


def test_a_floor_is_slack_of_its_own_size_only() -> None:
    zero = np.zeros(2)
    assert_close("x", zero, np.array([0.0, 0.9 * BOUND]), *ROW, floor=1.0)
    with pytest.raises(AssertionError):
        assert_close("x", zero, np.array([0.0, 1.1 * BOUND]), *ROW, floor=1.0)
    with pytest.raises(AssertionError):
        assert_close("x", WANT, moved(1.01 * BOUND * 4), *ROW, floor=1.0)


@pytest.mark.parametrize("other", [WANT.T, WANT[:1], WANT[None], WANT.ravel()])
def test_another_shape_fails(other: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close("x", WANT, other, *ROW)


def test_a_scalar_does_not_stand_for_an_array() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close("x", np.ones(3), 1.0, *ROW)


def test_a_transposed_square_fails() -> None:
    square = np.arange(9.0).reshape(3, 3)
    with pytest.raises(AssertionError, match="max-abs"):
        assert_close("x", square, square.T, *ROW)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_on_either_side_and_on_both(bad: float) -> None:
    spoilt = WANT.copy()
    spoilt[0, 1] = bad
    for want, got in ((WANT, spoilt), (spoilt, WANT), (spoilt, spoilt)):
        with pytest.raises(AssertionError, match="not all finite"):
            assert_close("x", want, got, *ROW)


def test_nothing_to_compare_fails() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        assert_close("x", np.empty((0, 3)), np.empty((0, 3)), *ROW)


def test_the_message_says_where_and_how_much() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_close("my array", WANT, moved(0.5), *ROW)
    message = str(caught.value)
    assert "my array (outputs, float32, oracle)" in message
    assert "max-abs 5.000e-01 of largest 4.000e+00" in message
    rms = np.sqrt(0.25 / 6) / np.sqrt((WANT**2).mean())
    assert f"RMS ratio {rms:.3e}" in message
    assert "worst at (1, 2)" in message
    assert TOLERANCES[ROW].reason in message


def test_a_row_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        assert_close("x", WANT, WANT, "outputs", "float16", "oracle")


def test_every_row_says_why_and_is_tight() -> None:
    for (quantity, dtype, pair), bound in TOLERANCES.items():
        most = 1e-1 if dtype == "bfloat16" else 1e-3  # 8 significant bits, and 24 or more
        assert 0 < bound.rtol <= most, (quantity, dtype, pair)
        assert len(bound.reason.split()) > 3, (quantity, dtype, pair)


def test_a_gradient_that_is_no_number_passes_no_verification() -> None:
    good = {"a": np.ones(3), "b": np.ones(2)}
    bad = {"a": np.array([1.0, np.nan, 1.0]), "b": np.ones(2)}
    assert compare.gradient_difference(good, good) == 0
    for one, other in ((good, bad), (bad, good)):
        assert not compare.gradient_difference(one, other) <= compare.GRADIENT_TOLERANCE
