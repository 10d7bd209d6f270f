"""The retrieval task: its strings are what the paper describes, and mistakes are named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwt import tasks
from fwt.fwcore.errors import ConfigError
from fwt.tasks.retrieval import Retrieval, Spec, generate, load

COUNT = 40
PAIRS = st.integers(1, 26)
SEEDS = st.integers(-(2**40), 2**40)


def retrieval(**options: int) -> Retrieval:
    return load(Spec.parse({"kind": "retrieval", **options}, "test"))


@settings(max_examples=80, deadline=None)
@given(pairs=PAIRS, seed=SEEDS, split=st.sampled_from(["train", "val", "test"]))
def test_strings_are_as_the_paper_says(pairs: int, seed: int, split: str) -> None:
    drawn = generate(pairs, COUNT, seed, split)
    assert drawn.inputs.shape == (COUNT, 2 * pairs + 3)
    assert drawn.inputs.dtype == drawn.targets.dtype == np.int64
    for symbols, target in zip(drawn.inputs.tolist(), drawn.targets.tolist(), strict=True):
        keys, values = symbols[: 2 * pairs : 2], symbols[1 : 2 * pairs : 2]
        assert all(0 <= key <= 25 for key in keys)
        assert len(set(keys)) == pairs
        assert all(26 <= value <= 35 for value in values)
        assert symbols[-3:-1] == [36, 36]
        assert dict(zip(keys, values, strict=True))[symbols[-1]] - 26 == target


@settings(max_examples=40, deadline=None)
@given(pairs=PAIRS, seed=SEEDS)
def test_what_is_rendered_parses_back(pairs: int, seed: int) -> None:
    task = retrieval(pairs=pairs, train=3, data_seed=seed)
    drawn = task.split("train")
    for symbols, target in zip(drawn.inputs, drawn.targets, strict=True):
        text, answer = task.render(symbols, int(target)).split(" -> ")
        assert task.parse(text).tolist() == symbols.tolist()
        assert text[text.index(text[-1]) + 1] == answer


@settings(max_examples=20, deadline=None)
@given(pairs=PAIRS, seed=SEEDS, more=st.integers(1, 50))
def test_purity_and_prefix(pairs: int, seed: int, more: int) -> None:
    few, many = (generate(pairs, count, seed, "val") for count in (COUNT, COUNT + more))
    assert np.array_equal(few.inputs, many.inputs[:COUNT])
    assert np.array_equal(few.targets, many.targets[:COUNT])
    assert not np.array_equal(few.inputs, generate(pairs, COUNT, seed + 1, "val").inputs)


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("train", "8efde6ffa5b5ca072530b4f9991af1d5096e584796fa8911f6bdefd6e89bdab3"),
        ("val", "cb8a229ef7e61c510c4d26f0923d5b925e1d93b3e53ae715768dc42271a1021d"),
        ("test", "bfb8ecd99d9c95c7422bf2a71601e3d9e08bf979599a8096cc1e337131acdc20"),
    ],
)
def test_golden_strings(split: str, digest: str) -> None:
    drawn = retrieval(train=128, val=128, test=128).split(split)
    assert hashlib.sha256(drawn.inputs.tobytes()).hexdigest() == digest


def test_renamings_ask_the_same_under_other_names() -> None:
    plain, more = (retrieval(train=2_000, val=30, test=40, renamings=turns) for turns in (0, 2))
    strings, renamed = plain.split("train"), more.split("train")
    assert np.array_equal(renamed.inputs[:2_000], strings.inputs)
    assert np.array_equal(renamed.targets[:2_000], strings.targets)
    for turn in (1, 2):
        own = slice(2_000 * turn, 2_000 * (turn + 1))
        for before, after, target in zip(
            strings.inputs, renamed.inputs[own], renamed.targets[own], strict=True
        ):
            text = more.render(after, target)
            more.parse(text.split(" ")[0])  # letters, digits and marks where they belong
            assert text[-1] == text[text.index(text[10]) + 1]
            same = [np.equal.outer(symbols, symbols) for symbols in (before, after)]
            assert np.array_equal(*same), text  # one symbol, one name
        for place, low, count in ((0, 0, 26), (1, 26, 10)):
            found = np.bincount(renamed.inputs[own, place] - low, minlength=count)
            assert len(found) == count, found
            assert found.min() > 0.5 * 2_000 / count, found
    parts = [renamed.inputs[2_000 * turn : 2_000 * (turn + 1)] for turn in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        agree = (parts[one][:, :8] == parts[other][:, :8]).mean(0)
        assert agree.max() < 0.14, agree  # 1/26 and 1/10 by chance
    for name in ("val", "test"):
        assert np.array_equal(more.split(name).inputs, plain.split(name).inputs)
    assert more.data_bytes - plain.data_bytes == 2 * (
        strings.inputs.nbytes + strings.targets.nbytes
    )


def test_draws_are_uniform() -> None:
    drawn = generate(4, 20_000, 1, "train")
    digits = np.bincount(drawn.targets, minlength=10)
    letters = np.bincount(drawn.inputs[:, 0], minlength=26)
    places = (drawn.inputs[:, 0:8:2] == drawn.inputs[:, -1:]).sum(axis=0)
    for counts in (digits, letters, places):
        expected = 20_000 / len(counts)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_shape_name_and_sizes() -> None:
    task = retrieval(pairs=6, train=7, val=5, test=3)
    shape = task.shape
    assert (shape.steps, shape.symbols, shape.features, shape.classes) == (15, 37, 0, 10)
    assert [len(task.split(name)) for name in ("train", "val", "test")] == [7, 5, 3]
    assert task.dataset == "retrieval-k6"
    assert task.chance_error == 90.0
    assert task.control is None
    assert task.split("val") is task.split("val")


def test_defaults_are_the_papers() -> None:
    spec = tasks.parse({"kind": "retrieval"})
    sizes = {"pairs": 4, "train": 100_000, "val": 10_000, "test": 20_000, "data_seed": 0}
    assert spec.json_data() == {"kind": "retrieval", **sizes, "renamings": 0}


def test_published_only_for_the_papers_strings() -> None:
    assert retrieval().published == {
        "irnn": {20: 62.11, 50: 60.23, 100: 0.34},
        "lstm": {20: 60.81, 50: 1.85, 100: 0.0},
        "alstm": {20: 60.13, 50: 1.62, 100: 0.0},
        "fast-weights": {20: 1.81, 50: 0.0, 100: 0.0},
    }
    assert retrieval(pairs=8).published == {}


def test_render_and_parse_the_papers_example() -> None:
    task = retrieval()
    symbols = task.parse(" c9k8j3f1??c\n")
    assert symbols.dtype == np.int64
    assert symbols.tolist() == [2, 35, 10, 34, 9, 29, 5, 27, 36, 36, 2]
    assert task.render(symbols, 9) == "c9k8j3f1??c -> 9"
    assert task.render(symbols) == "c9k8j3f1??c"


def test_parse_takes_another_number_of_pairs() -> None:
    assert retrieval(pairs=4).parse("a0??a").tolist() == [0, 26, 36, 36, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["length=0", "2K + 3"]),
        ("??c", ["length=3", "2K + 3"]),
        ("c9k8??", ["length=6", "2K + 3"]),
        ("c9kk??c", ["position 4", "a digit 0-9", "'k'"]),
        ("c998??c", ["position 3", "a letter a-z", "'9'"]),
        ("c9k8?1c", ["position 6", "'?'", "'1'"]),
        ("c9k8??8", ["position 7", "a letter a-z", "'8'"]),
        ("c9K8??c", ["position 3", "a letter a-z", "unknown symbol 'K'"]),
        ("c9k\u00b2??c", ["position 4", "a digit 0-9", "unknown symbol '\u00b2'"]),
        ("c9c8??c", ["position 3", "repeated 'c'"]),
        ("c9k8??z", ["position 7", "one of the letters c, k", "query='z'"]),
    ],
)
def test_parse_names_the_mistake(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        retrieval().parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in [repr(text), *words] if word not in message] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": 27}, ["pairs=27", "at most 26", "letters are distinct"]),
        ({"renamings": -1}, ["renamings", "expected at least 0", "-1"]),
        ({"pairs": 0}, ["pairs=0", "at least 1"]),
        ({"train": 0}, ["train=0", "expected at least 1"]),
        ({"val": -1}, ["val=-1", "expected at least 1"]),
        ({"test": 0}, ["test=0", "expected at least 1"]),
        ({"pair": 3}, ["unknown key 'pair'", "did you mean 'pairs'"]),
    ],
)
def test_spec_names_the_mistake(options: dict[str, int], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        tasks.parse({"kind": "retrieval", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match=r"unknown split 'tests'.*did you mean 'test'"):
        retrieval().split("tests")


@pytest.mark.parametrize(("pairs", "share"), [(1, 1.0), (2, 0.53515), (4, 0.0)])
def test_the_share_of_test_strings_that_the_training_split_has(pairs: int, share: float) -> None:
    """What the guides say of few pairs; the default sizes."""
    rows = {
        split: [row.tobytes() for row in generate(pairs, count, 0, split).inputs]
        for split, count in (("train", 100_000), ("test", 20_000))
    }
    known = set(rows["train"])
    assert sum(row in known for row in rows["test"]) / 20_000 == share


def test_more_pairs_begin_with_the_same_letters_and_other_digits() -> None:
    few, more = (generate(pairs, 1000, 0, "test").inputs for pairs in (4, 8))
    assert np.array_equal(few[:, 0:8:2], more[:, 0:8:2])
    assert 0.05 < (few[:, 1:8:2] == more[:, 1:8:2]).mean() < 0.15
