"""What `fwt verify` takes for rounding and what for a fault, in sound and ill-conditioned nets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import tasks
from fwt.backends.contract import Compiled
from fwt.cli.verify import print_rows
from fwt.fwcore.analysis import compare
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.training.batches import Split
from tests.conftest import need

Weights = dict[str, NumpyArray]

# fwt train --task retrieval --backend torch --size 20 --steps 1500 --set model.core.rate=0.5
# --set model.core.inner_steps=3: for some strings its layer norm divides by a small deviation
ILL = Path(__file__).parent / "data" / "ill-conditioned.safetensors"
SHIPPED = Path(__file__).parent.parent / "checkpoints"
NETWORKS = {
    "ill-conditioned": ILL,
    **{name: SHIPPED / name for name in ("retrieval-fast-weights-r20", "retrieval-lstm-r20")},
}


class Subject:
    """A checkpoint, and what is compared of it."""

    def __init__(self, path: Path) -> None:
        found = checkpoint.read(path)
        self.model, self.weights = found.spec.model, found.params
        self.split = tasks.load(tasks.parse(found.spec.task)).split("test")
        self.conditioning = compare.Conditioning(
            self.weights, "float32", self.on("numpy", "float64"), self.on("torch", "float64")
        )

    def on(self, name: str, dtype: str, weights: Weights | None = None) -> Compiled:
        given = self.weights if weights is None else weights
        return need(name).compile(self.model, given, device="cpu", dtype=dtype)

    def compare(self, split: Split, weights: Weights | None = None) -> dict[str, Any]:
        """NumPy in float64 and PyTorch in float32, which may have other weights."""
        both = {"numpy": self.on("numpy", "float64"), "torch": self.on("torch", "float32", weights)}
        (row,) = compare.compare(both, split, frozenset({"numpy"}), self.conditioning)
        return row


@cache
def subject(name: str) -> Subject:
    return Subject(NETWORKS[name])


@cache
def hard() -> Split:
    """The strings on which rounding moves the ill-conditioned network by most."""
    here = subject("ill-conditioned")
    gaps = compare.logits_of(here.on("torch", "float32"), here.split) - compare.logits_of(
        here.on("numpy", "float64"), here.split
    )
    rows = np.argsort(-np.abs(gaps).max(1), kind="stable")[:16]
    return Split(here.split.inputs[rows], here.split.targets[rows])


# --- no false alarm -----------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_an_ill_conditioned_network_is_no_fault_of_a_backend(capsys: Any) -> None:
    here, (inputs, targets) = subject("ill-conditioned"), (hard().inputs, hard().targets)
    mixed = Split(
        np.concatenate([here.split.inputs[:300], inputs]),
        np.concatenate([here.split.targets[:300], targets]),
    )
    models = {name: here.on(name, "float32") for name in ("torch", "mlx")}
    models["numpy"] = here.on("numpy", "float64")
    rows = compare.compare(models, mixed, frozenset({"numpy"}), here.conditioning)
    assert [row["ok"] for row in rows] == [True, True, True]
    for row in rows:
        assert row["logit_rel"] > compare.LOGIT_TOLERANCE, "it is well-conditioned: a weak test"
        assert row["logit_rel"] < row["logit_bound"] < 0.02
        assert 0 < row["ill_conditioned"] <= 16
        assert row["argmax_equal"] == row["examples"] == 316
    print_rows(rows)
    shown = capsys.readouterr().out
    assert "32 times what rounding the weights changes" in shown
    assert f"{max(row['ill_conditioned'] for row in rows)} ill-conditioned examples" in shown


def test_where_no_tolerance_is_exceeded_rounding_is_not_asked_for() -> None:
    here = subject("retrieval-fast-weights-r20")
    models = {"numpy": here.on("numpy", "float64"), "torch": here.on("torch", "float32")}
    unused: Any = None
    (row,) = compare.compare(models, here.split, frozenset({"numpy"}), unused)
    assert row["ok"]
    assert row["logit_bound"] == pytest.approx(compare.LOGIT_TOLERANCE)
    assert row["ill_conditioned"] == 0


def test_other_changes_below_a_unit_move_it_no_farther() -> None:
    """By draws of another kind, less than half a unit each, within a factor of 4."""
    here = subject("retrieval-lstm-r20")
    wide = {name: a * (1 + 2.0**-25 * np.sin(np.arange(a.size)).reshape(a.shape))
            for name, a in here.weights.items()}  # fmt: skip
    small = Split(here.split.inputs[:64], here.split.targets[:64])
    one = compare.logits_of(here.on("numpy", "float64", wide), small)
    other = compare.logits_of(here.on("numpy", "float64"), small)
    moved = here.conditioning.logits(small.inputs)
    assert moved.shape == (64,)
    assert (np.abs(one - other).max(1) <= 4 * moved).all()
    assert moved.max() < 1e-6 * np.abs(one).max()


# --- no fault missed ----------------------------------------------------------------------


def wrong_row(weights: Weights) -> None:
    weights["encoder.weight"][3] = weights["encoder.weight"][4]


def wrong_row_of_the_core(weights: Weights) -> None:
    name = "core.w" if "core.w" in weights else "core.wh"
    weights[name][7] = weights[name][8]


def transposed(weights: Weights) -> None:
    if "core.w" in weights:
        weights["core.w"][:] = weights["core.w"].T.copy()
    else:  # one gate's square
        weights["core.wh"][:20] = weights["core.wh"][:20].T.copy()


def lost_bias(weights: Weights) -> None:
    weights["head.hidden.bias"][:] = 0


def lost_bias_of_the_core(weights: Weights) -> None:
    weights["core.norm.bias" if "core.norm.bias" in weights else "core.bias"][:] = 0


def float16(weights: Weights) -> None:
    for name in weights:
        weights[name] = weights[name].astype(np.float16).astype(np.float32)


def float16_of_one_matrix(weights: Weights) -> None:
    name = "core.w" if "core.w" in weights else "core.wh"
    weights[name] = weights[name].astype(np.float16).astype(np.float32)


def gate_order(weights: Weights) -> None:
    for name in ("core.wx", "core.wh", "core.bias"):
        i, f, g, o = np.split(weights[name], 4)
        weights[name] = np.concatenate([i, f, o, g])


FAULTS: list[Callable[[Weights], None]] = [
    wrong_row, wrong_row_of_the_core, transposed, lost_bias, lost_bias_of_the_core, float16,
    float16_of_one_matrix, gate_order,
]  # fmt: skip
PLANTED = [
    (name, fault)
    for name in NETWORKS
    for fault in FAULTS
    if fault is not gate_order or "lstm" in name
]


def spoilt(name: str, fault: Callable[[Weights], None]) -> Weights:
    weights = {key: array.copy() for key, array in subject(name).weights.items()}
    fault(weights)
    return weights


@pytest.mark.parametrize(("name", "fault"), PLANTED)
def test_a_planted_fault_is_caught(name: str, fault: Callable[[Weights], None]) -> None:
    here = subject(name)
    few = Split(here.split.inputs[:500], here.split.targets[:500])
    assert here.compare(few)["ok"]
    row = here.compare(few, spoilt(name, fault))
    assert not row["ok"]
    assert row["logit_rel"] > 5 * compare.LOGIT_TOLERANCE


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not gate_order])
def test_a_planted_fault_is_caught_on_ill_conditioned_examples_alone(
    fault: Callable[[Weights], None],
) -> None:
    here = subject("ill-conditioned")
    assert here.compare(hard())["ok"]
    assert not here.compare(hard(), spoilt("ill-conditioned", fault))["ok"]


@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_gradients_of_right_logits_are_caught(name: str, monkeypatch: Any) -> None:
    here = subject(name)
    few = Split(here.split.inputs[:64], here.split.targets[:64])
    good_one, bad_one = here.on("torch", "float64"), here.on("torch", "float32")
    right = bad_one.gradients(few.inputs, few.targets)
    bias = "core.norm.bias" if "core.norm.bias" in right[1] else "core.bias"
    wrong = {**right[1], bias: 1.001 * right[1][bias]}
    monkeypatch.setattr(bad_one, "gradients", lambda *_: (right[0], wrong))
    models = {"torch": good_one, "mlx": bad_one}
    (row,) = compare.compare(models, few, frozenset(), here.conditioning)
    assert row["logit_rel"] <= row["logit_bound"]
    assert row["gradient_rel"] == pytest.approx(1e-3, rel=0.1)
    assert row["gradient_bound"] < 5e-4
    assert not row["ok"]


def test_a_logit_that_is_no_number_is_never_within_a_bound(monkeypatch: Any) -> None:
    here = subject("retrieval-fast-weights-r20")
    few = Split(here.split.inputs[:8], here.split.targets[:8])
    models = {"numpy": here.on("numpy", "float64"), "torch": here.on("torch", "float32")}
    scores = models["torch"].forward(few.inputs)
    scores[5, 2] = np.nan
    monkeypatch.setattr(models["torch"], "forward", lambda _: scores)
    (row,) = compare.compare(models, few, frozenset({"numpy"}), here.conditioning)
    assert not row["ok"]
