"""What is particular to the associative LSTM and to the convolutional network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.analysis import estimate
from fwt.fwcore.cells import alstm, convnet
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec, TrainSpec
from tests import cases
from tests.cases import Engine
from tests.cli_tools import clean_environment, good, refused

DIGITS = ("--task", "mnist-glimpse", "--dataset", "mnist-subset")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


# --- associative LSTM ---------------------------------------------------------------------


def test_permutations_are_permutations_and_differ() -> None:
    found = alstm.permutations(20, 5)
    orders = found.argmax(0).reshape(5, 20)
    assert (found.sum(0) == 1).all()
    assert all(sorted(order) == list(range(20)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 5
    assert np.array_equal(alstm.permutations(20, 3), found[:, :60]), "more copies, the same first"


def miss(spec: ModelSpec, on: Engine, pairs: int) -> float:
    """How far the first value is from what its key recalls after `pairs` writes, RMS.

    Wx is the identity, so that each input says what gates, keys and value are. Keys have modulus
    1, whose inverse is the conjugate; values are small, so that nothing is bounded.
    """
    half = spec.core.size // 2
    params: dict[str, NumpyArray] = {n: np.zeros_like(a) for n, a in cases.params_of(spec).items()}
    params["core.wx"] = np.eye(9 * half)
    angles = np.random.default_rng(3).uniform(0, 2 * np.pi, (2, pairs, half))
    keys, values = np.exp(1j * angles[0]), 0.1 * np.exp(1j * angles[1])
    x = np.zeros((1, pairs, 9, half))
    x[:, :, :3] = 40.0  # open gates
    for t in range(pairs):
        for place, number in enumerate((values[t], keys[t], keys[0].conj())):
            x[0, t, 3 + place], x[0, t, 6 + place] = number.real, number.imag
    hs, _ = on.compile(spec, params).states(x.reshape(1, pairs, 9 * half))
    read = hs[0, -1, :half] + 1j * hs[0, -1, half:]
    return float(np.sqrt((np.abs(read - values[0]) ** 2).mean()))


def wide(copies: int) -> ModelSpec:
    return cases.core_only({"kind": "alstm", "size": 256, "copies": copies}, 9 * 128)


def test_one_pair_is_recalled_and_copies_make_several_clearer(exact_engine: Engine) -> None:
    """What other pairs leave behind falls as one over the root of the copies."""
    assert miss(wide(1), exact_engine, 1) < 1e-12
    one, four, sixteen = (miss(wide(copies), exact_engine, 4) for copies in (1, 4, 16))
    assert one == pytest.approx(0.1 * 3**0.5, rel=0.2)
    assert four == pytest.approx(one / 2, rel=0.3)
    assert sixteen == pytest.approx(one / 4, rel=0.3)


@pytest.mark.parametrize("size", [1, 7])
def test_an_odd_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size: expected an even number.*got size={size}"):
        cases.core_only({"kind": "alstm", "size": size}, 4)


# --- convolutional network ----------------------------------------------------------------


@pytest.mark.parametrize("inputs", [1, 4, 48, 50])
def test_a_time_step_that_is_no_picture_is_refused(inputs: int) -> None:
    with pytest.raises(ConfigError, match=f"square pictures.*got inputs={inputs}"):
        model.parameters(cases.core_only({"kind": "convnet", "size": 3}, inputs))


def test_more_glimpses_than_weights_are_refused(engine: Engine) -> None:
    spec = cases.core_only({"kind": "convnet", "size": 3, "steps": 4}, 49)
    made = engine.compile(spec)
    made.states(cases.noise(1, 2, 4, 49))
    with pytest.raises(ConfigError, match="steps=4 time steps, got a sequence of 5"):
        made.states(cases.noise(1, 2, 5, 49))
    with pytest.raises(ConfigError, match="got a sequence of 5"):
        made.states(cases.noise(1, 2, 1, 49), {}, 4)


@pytest.mark.parametrize(("pixels", "wanted"), [(49, 3), (100, 4), (25, 2), (9, 1)])
def test_the_second_kernel_is_what_the_pooling_leaves(pixels: int, wanted: int) -> None:
    table = model.parameters(cases.core_only({"kind": "convnet", "size": 2}, pixels))
    shapes = {param.name: param.shape for param in table}
    assert shapes["core.conv2.weight"] == (2, 2, wanted, wanted)
    assert convnet.sides(pixels)[1] == wanted


def test_the_estimate_of_memory_knows_what_a_cell_keeps() -> None:
    """49 pixels of R features a glimpse are kept, four times over."""
    spec = cases.core_only({"kind": "convnet", "size": 50}, 49)
    found = estimate.training_bytes(spec, TrainSpec(steps=1), 24, "auto")
    assert found > 4 * 128 * 24 * 49 * 50 * 2
    plain = cases.core_only({"kind": "lstm", "size": 50}, 49)
    assert found > 10 * estimate.training_bytes(plain, TrainSpec(steps=1), 24, "auto")


# --- by the command -----------------------------------------------------------------------

PUBLISHED: dict[tuple[str, int], tuple[tuple[Any, ...], str]] = {
    ("alstm", 20): (("--task", "retrieval", "--set", "task.train=64"), "(published: 60.13%)"),
    ("alstm", 50): (("--task", "retrieval", "--set", "task.train=64"), "(published: 1.62%)"),
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_the_published_error_stands_beside_ours(name, size, tmp_path):
    where, words = PUBLISHED[name, size]
    few = ("--set", "task.val=32", "--set", "task.test=32", "--batch-size", 32, "--steps", 2)
    done = good("train", *where, *few, "--model", name, "--size", size, "--out", tmp_path / "run")
    assert words in done.out


def test_a_convnet_trains_on_glimpses_is_evaluated_and_converted(tmp_path):
    run = tmp_path / "run"
    few = ("--size", 4, "--batch-size", 16, "--steps", 3, "--out", run, "--json")
    trained = good("train", *DIGITS, "--model", "convnet", *few).json
    assert (trained["model"], trained["done"]) == ("convnet", True)
    again = good("eval", run, "--backend", "numpy", "--json").json
    assert again["error_pct"] == pytest.approx(trained["test"]["error_pct"], abs=0.2)
    for layout in ("mlx", "torch"):
        good("convert", run, tmp_path / layout, "--to", layout)
    refused(2, ["'convnet'", "pictures"], "train", "--task", "retrieval", "--model", "convnet")
