"""The linear associator and Hopfield storage: perfect recall, crosstalk and capacity by formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fwt.fwcore.analysis import associator
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.rng import Stream
from tests.cli_tools import clean_environment, good, refused


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def stream(*purpose):
    return Stream(7, "test", *purpose)


def test_storage_is_equation_1_pair_by_pair():
    keys, values = (associator.unit_keys("random", 6, 4, stream(name)) for name in "kv")
    fast = np.zeros((6, 6))
    for key, value in zip(keys, values, strict=True):
        fast = 0.9 * fast + np.outer(value, key)
    np.testing.assert_allclose(associator.store(keys, values, 0.9), fast, atol=1e-15)
    np.testing.assert_allclose(associator.recall(fast, keys)[2], fast @ keys[2], atol=1e-15)


def test_orthonormal_keys_are_recalled_perfectly_and_no_more_than_r_of_them():
    keys = associator.unit_keys("orthonormal", 8, 8, stream("keys"))
    values = associator.signs(stream("values"), (8, 8))
    np.testing.assert_allclose(keys @ keys.T, np.eye(8), atol=1e-13)
    found = associator.recall(associator.store(keys, values), keys)
    np.testing.assert_allclose(found, values, atol=1e-13)
    with pytest.raises(ConfigError, match="at most R=8 orthonormal keys, got pairs=9"):
        associator.unit_keys("orthonormal", 8, 9, stream())
    with pytest.raises(ConfigError, match="keys='odd'"):
        associator.unit_keys("odd", 8, 2, stream())


@pytest.mark.parametrize(
    ("pairs", "age", "decay"), [(2, 0, 1.0), (9, 0, 1.0), (9, 4, 1.0), (9, 3, 0.8), (9, 8, 0.9)]
)
def test_crosstalk_is_what_the_formula_says(pairs, age, decay):
    want = associator.crosstalk(32, pairs, age, decay)
    others = [decay ** (2 * a) for a in range(pairs) if a != age]
    assert want == pytest.approx(sum(others) / decay ** (2 * age) / 32)
    found = associator.measured_crosstalk("random", 32, pairs, age, decay, 2000, 0)
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - want) < 4 * error
    assert error < 0.1 * want


def test_hopfield_weights_have_no_diagonal_and_keep_a_lone_pattern():
    pattern = associator.signs(stream("pattern"), (1, 10))
    weights = associator.hopfield_weights(pattern)
    want = np.outer(pattern, pattern) / 10
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(weights, want)
    flipped = pattern.copy()
    flipped[0, :3] *= -1
    np.testing.assert_array_equal(associator.hopfield_step(weights, flipped), pattern)
    assert associator.bit_error(10, 1) == 0


def test_bits_flip_as_often_as_the_formula_says():
    want = associator.bit_error(200, 51)
    assert want == pytest.approx(0.5 * math.erfc(math.sqrt(2)))
    found = associator.measured_bit_error(200, 51, 60, 0)
    assert abs(found.mean() - want) < 4 * found.std(ddof=1) / math.sqrt(60)


def test_capacity_is_the_last_number_within_the_error():
    assert associator.capacity(64, 0.5, "linear") == 33  # (n - 1) / R <= 1/2
    most = associator.capacity(128, 0.01, "hopfield")
    assert associator.bit_error(128, most) <= 0.01 < associator.bit_error(128, most + 1)


def test_the_command_tells_theory_beside_measurement(tmp_path):
    flags = ("--size", 32, "--pairs", "1-3,9", "--trials", 50, "--decay", 0.9)
    path = tmp_path / "recall.svg"
    told = good("associator", *flags, "--json", "--figure", path).json
    assert [point["pairs"] for point in told["points"]] == [1, 2, 3, 9]
    for point in told["points"]:
        samples = associator.measured_crosstalk("random", 32, point["pairs"], 0, 0.9, 50, 0)
        assert point["theory"] == associator.crosstalk(32, point["pairs"], 0, 0.9)
        assert point["mean"] == samples.mean()
    assert "n, stored pairs" in path.read_text()
    shown = good("associator", *flags).out.splitlines()
    last = told["points"][-1]
    assert shown[-1].split()[:3] == ["9", f"{last['theory']:.4f}", f"{last['mean']:.4f}"]


def test_hopfield_and_its_capacity_are_told():
    told = good("associator", "--memory", "hopfield", "--pairs", "20", "--trials", 5, "--json").json
    assert told["points"][0]["theory"] == associator.bit_error(64, 20)
    assert told["points"][0]["mean"] == associator.measured_bit_error(64, 20, 5, 0).mean()
    assert told["capacity"] == {"error": 0.01, "pairs": associator.capacity(64, 0.01, "hopfield")}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--memory", "hopfeld"), "did you mean 'hopfield'"),
        (("--decay", 0), "expected a number in (0, 1], got decay=0.0"),
        (("--memory", "hopfield", "--decay", 0.9), "expected random keys, decay 1 and age 0"),
        (("--pairs", "3,9", "--age", 3), "expected more than age=3, got pairs=3"),
        (("--keys", "orthonormal", "--size", 4, "--pairs", 5), "at most R=4 orthonormal keys"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, words):
    refused(2, (words,), "associator", *flags)
