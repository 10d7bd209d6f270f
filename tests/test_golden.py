"""Golden hashes: the same numbers on every machine and in every version, or a test fails.

A change here changes every run: raise the format version and say so in the change log.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model, params
from fwt.fwcore.cells import alstm
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.training import batches
from fwt.fwcore.training.batches import BatchOrder
from tests import cases

RUN: dict[str, Any] = {
    "recipe": "golden",
    "task": {"kind": "retrieval", "pairs": 4, "train": 4000},
    "model": {
        "encoder": {"kind": "embedding", "symbols": 37, "size": 12},
        "core": {
            "kind": "fast-weights",
            "size": 8,
            "decay": 0.9,
            "trained": True,
            "store": [0, 3],
            "integrate": [4],
        },
        "head": {"hidden": 6, "classes": 10},
    },
    "train": {"epochs": 2, "lr": 0.001, "dropout": 0.1},
}


def sha(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def spec(**train: Any) -> RunSpec:
    return RunSpec.parse({**RUN, "train": {**RUN["train"], **train}}, "golden")


FIRST_WEIGHTS = {
    0: "39dfc2252640bf6d",
    1: "3480c82a2ac94026",
}

EACH_WEIGHT = {
    "encoder.weight": "5e26670f76362656",
    "core.w": "1197dddf20238fd7",
    "core.c": "a0f7e33cedd47e41",
    "core.w_int": "1197dddf20238fd7",
    "core.c_int": "ad9dddb2aac36456",
    "core.norm.weight": "f9b34a2b2ccbe55b",
    "core.norm.bias": "306f228cfeadf342",
    "core.decay_logit": "4c87bb7eaf989a97",
    "core.log_rate": "d25ef767e9c4f4dd",
    "head.hidden.weight": "89f4991717162337",
    "head.hidden.bias": "a3c40e32dfb7eb22",
    "head.output.weight": "31ed0df57b144eeb",
    "head.output.bias": "1b88730d05df6222",
}


@pytest.mark.parametrize("seed", FIRST_WEIGHTS)
def test_first_weights(seed: int) -> None:
    found = params.initialise(model.parameters(spec().model), seed)
    assert sha(*found.values()) == FIRST_WEIGHTS[seed]


def test_each_first_weight() -> None:
    found = params.initialise(model.parameters(spec().model), 0)
    assert {name: sha(array) for name, array in found.items()} == EACH_WEIGHT


OTHER_WEIGHTS = {"alstm": "cbeeb3ec2bab7c0a", "convnet": "884061684255081d"}


@pytest.mark.parametrize("kind", OTHER_WEIGHTS)
def test_first_weights_of_other_cells(kind: str) -> None:
    core = {"kind": kind, "size": 6}
    table = model.parameters(cases.core_only(core, 49))
    assert sha(*params.initialise(table, 0).values()) == OTHER_WEIGHTS[kind]


def test_the_permutations_of_an_associative_lstm() -> None:
    """They are in no checkpoint: another draw would make every trained model another one."""
    assert alstm.permutations(3, 2).argmax(0).tolist() == [1, 2, 0, 0, 1, 2]
    assert sha(alstm.permutations(50, 8)) == "6fe5673f6f5cc341"


def test_words_of_a_stream() -> None:
    assert Stream(0, "golden").words(3).tolist() == [
        18034329289814169622,
        13358942338121348115,
        13179084832919681839,
    ]
    assert Stream(-7, "golden", 2).words(2).tolist() == [8998696905336137871, 9331542923492107363]
    assert sha(Stream(0, "golden").words(1000)) == "237df6a9b0cd5298"


def test_numbers_of_a_stream() -> None:
    assert Stream(0, "golden").uniform((3,), -1, 1).tolist() == [
        0.9552858995335487,
        0.44837943050997486,
        0.42887924072222794,
    ]
    assert Stream(0, "golden").integers(10, (8,)).tolist() == [9, 7, 7, 0, 6, 3, 0, 0]
    assert Stream(0, "golden").permutation(8).tolist() == [6, 3, 7, 5, 4, 2, 1, 0]
    assert Stream(0, "golden").permutations(2, 5).tolist() == [[3, 4, 2, 1, 0], [1, 2, 0, 4, 3]]


def test_the_first_batches() -> None:
    order = BatchOrder(0, 4000, 128)
    assert order.rows(0)[:8].tolist() == [2708, 3639, 2293, 1921, 3822, 3940, 2621, 2003]
    assert sha(order.rows(0)) == "a16b1203a5697a10"
    assert sha(order.rows(31)) == "02e19253ce08291b"  # the first of the second epoch
    assert sha(order.rows(0)) == "a16b1203a5697a10", "an earlier epoch again"
    assert sha(BatchOrder(1, 4000, 128).rows(0)) == "f553150531017387"


def test_an_epoch_sees_each_example_once() -> None:
    order = BatchOrder(0, 40, 8)
    for epoch in range(3):
        rows = np.concatenate([order.rows(5 * epoch + place) for place in range(5)])
        assert sorted(rows.tolist()) == list(range(40))
        assert rows.tolist() != list(range(40))


def test_a_dropout_mask() -> None:
    mask = batches.dropout_mask(0, "inputs", 5, 0.25, (4, 6))
    assert mask is not None
    assert (mask[0] > 0).tolist() == [False, True, True, True, True, True]
    assert sha(mask) == "c25dff72f8879e58"


DIGESTS = ("1a74dead", "25733c2b", "a106dd6c")


def test_digests_of_a_spec() -> None:
    found = spec()
    assert (found.digest(), found.run_digest(), found.model.digest()) == DIGESTS


def test_what_changes_a_digest() -> None:
    base = spec()
    assert spec(seed=1).digest() != base.digest()
    assert spec(seed=1).run_digest() == base.run_digest(), "the seed has its own place in a name"
    assert spec(lr=0.002).run_digest() != base.run_digest()
    renamed = base.model_copy(update={"recipe": "other"})
    assert renamed.run_digest() == base.run_digest()
    for number in (0.001, 1e-3, 0.0010):
        assert spec(lr=number).digest() == base.digest()
    keys = json.loads(json.dumps(RUN, sort_keys=True))
    assert RunSpec.parse(keys, "golden").digest() == base.digest(), "the order of keys is nothing"
