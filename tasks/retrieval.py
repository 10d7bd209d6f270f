"""Task 1, associative retrieval: in `c9k8j3f1??c` the answer is 9, the digit stored with `c`."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream
from fwt.tasks.base import Shape, Split, TaskSpec, check_split

LETTERS = string.ascii_lowercase
DIGITS = string.digits
MARK = "?"
SYMBOLS = LETTERS + DIGITS + MARK  # the symbol numbers are the places in this string
FIRST_DIGIT = SYMBOLS.index("0")

Count = Annotated[int, Field(ge=1, le=10**15)]

# Ba et al. 2016, table 1: strings of four pairs; test error in percent, by R
PUBLISHED_PAIRS = 4
PUBLISHED: dict[str, dict[int, float]] = {
    "irnn": {20: 62.11, 50: 60.23, 100: 0.34},
    "lstm": {20: 60.81, 50: 1.85, 100: 0.0},
    "alstm": {20: 60.13, 50: 1.62, 100: 0.0},
    "fast-weights": {20: 1.81, 50: 0.0, 100: 0.0},
}


class Spec(TaskSpec):
    """Options of the retrieval task (Ba et al. 2016, section 4.1).

    Attributes:
        pairs: K, letter-digit pairs in a string, 1 to 26; a string has T = 2K + 3 symbols.
        train: training strings.
        val: validation strings.
        test: test strings.
        data_seed: seed of the strings; apart from the seed of the weights, so that several
            runs can share one dataset.
        renamings: the training split holds every string so many times more, each time with its
            letters and digits renamed at random, which asks the same of the memory; 0 leaves it as
            it is. The other splits are never renamed.
    """

    kind: Literal["retrieval"] = "retrieval"
    pairs: int = 4
    train: Count = 100_000
    val: Count = 10_000
    test: Count = 20_000
    data_seed: int = 0
    renamings: int = Field(default=0, ge=0, le=1000)

    @property
    def reads_files(self) -> bool:
        """No: the strings are generated."""
        return False

    @field_validator("pairs")
    @classmethod
    def _letters_suffice(cls, pairs: int) -> int:
        if pairs < 1:
            raise ValueError("at least 1 pair, because a string asks for one of its letters")
        if pairs > len(LETTERS):
            raise ValueError(f"at most {len(LETTERS)}, because the letters are distinct")
        return pairs


def generate(pairs: int, count: int, data_seed: int, split: str) -> Split:
    """Random strings and their answers, a pure function of the arguments.

    The first n strings are the same for every `count` >= n, and their letters are the first letters
    of the same string with more pairs; digits and question are drawn anew for each K. With few
    pairs there are few different strings (260 for one pair, 130,000 for two), so that splits then
    share some: all of the default test split is in the training split for K = 1, 54 % for K = 2,
    0.2 % for K = 3, nothing for K = 4.

    Args:
        pairs: K, 1 to 26.
        count: N, how many strings.
        data_seed: the seed.
        split: `train`, `val` or `test`; each has random streams of its own.

    Returns:
        inputs (N, T) int64 symbol numbers with T = 2K + 3, targets (N,) int64 in 0..9.
    """

    def stream(purpose: str) -> Stream:
        return Stream(data_seed, "retrieval", split, purpose)

    keys = stream("keys").permutations(count, len(LETTERS))[:, :pairs]
    values = stream("values").integers(len(DIGITS), (count, pairs))
    asked = stream("query").integers(pairs, (count,))
    rows = np.arange(count)
    inputs = np.full((count, 2 * pairs + 3), SYMBOLS.index(MARK), dtype=np.int64)
    inputs[:, 0 : 2 * pairs : 2] = keys
    inputs[:, 1 : 2 * pairs : 2] = FIRST_DIGIT + values
    inputs[:, -1] = keys[rows, asked]
    return Split(inputs, values[rows, asked])


def renamed(strings: Split, times: int, data_seed: int) -> Split:
    """Strings, and so many times each of them under other names.

    A renaming is a random permutation of the letters and one of the digits, drawn for each string.

    Args:
        strings: N of them, as `generate` gives them.
        times: V, how many renamings of each.
        data_seed: the seed.

    Returns:
        inputs ((1 + V) N, T) and targets ((1 + V) N,): the strings as they are, then renaming by
        renaming.
    """
    inputs, targets = [strings.inputs], [strings.targets]
    count = len(strings.targets)
    for turn in range(times):
        letters = Stream(data_seed, "retrieval", "rename letters", turn)
        digits = Stream(data_seed, "retrieval", "rename digits", turn)
        figures = digits.permutations(count, len(DIGITS))
        names = np.concatenate(
            [
                letters.permutations(count, len(LETTERS)),
                FIRST_DIGIT + figures,
                np.full((count, 1), SYMBOLS.index(MARK)),
            ],
            axis=1,
        )  # (N, symbols): what each symbol of a string is called
        inputs.append(np.take_along_axis(names, strings.inputs, axis=1))
        targets.append(figures[np.arange(count), strings.targets])
    return Split(np.concatenate(inputs), np.concatenate(targets))


class Retrieval:
    """The retrieval task; the strings of a split are drawn when first asked for, and kept."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.shape = Shape(
            steps=2 * spec.pairs + 3, symbols=len(SYMBOLS), features=0, classes=len(DIGITS)
        )
        self._splits: dict[str, Split] = {}

    @property
    def dataset(self) -> str:
        """The name of the data, e.g. `retrieval-k4`."""
        return f"retrieval-k{self.spec.pairs}"

    @property
    def chance_error(self) -> float:
        """Test error in percent of guessing one of ten equally likely digits."""
        return 90.0

    @property
    def control(self) -> None:
        """The strings have one level only, so there is no control signal."""
        return None

    @property
    def published(self) -> dict[str, dict[int, float]]:
        """Ba et al. 2016, table 1 (percent): model -> R -> error; empty unless pairs is 4."""
        if self.spec.pairs != PUBLISHED_PAIRS:
            return {}
        return {model: dict(errors) for model, errors in PUBLISHED.items()}

    @property
    def data_bytes(self) -> int:
        """Bytes of all strings, and of the permutations that the largest split is drawn with."""
        sizes = (self.spec.train, self.spec.val, self.spec.test)
        strings = sum(sizes) + self.spec.train * self.spec.renamings
        return 8 * (strings * (self.shape.steps + 1) + max(sizes) * 2 * len(LETTERS))

    def split(self, name: str) -> Split:
        """The strings of `train`, `val` or `test`: inputs (N, T) int64, targets (N,) int64.

        Raises:
            ConfigError: for another name.
        """
        check_split(name)
        if name not in self._splits:
            sizes = {"train": self.spec.train, "val": self.spec.val, "test": self.spec.test}
            strings = generate(self.spec.pairs, sizes[name], self.spec.data_seed, name)
            if name == "train" and self.spec.renamings:
                strings = renamed(strings, self.spec.renamings, self.spec.data_seed)
            self._splits[name] = strings
        return self._splits[name]

    def render(self, inputs: NumpyArray, target: int | None = None) -> str:
        """A string of shape (T,) as text: `c9k8j3f1??c -> 9`, without the arrow if no target."""
        text = "".join(SYMBOLS[int(symbol)] for symbol in inputs)
        return text if target is None else f"{text} -> {DIGITS[int(target)]}"

    def parse(self, text: str) -> NumpyArray:
        """A string typed by hand, e.g. `c9k8j3f1??c`, as (T,) int64 symbol numbers.

        The number of pairs may differ from the task's: models take any T.

        Raises:
            ConfigError: wrong length, a symbol out of place or unknown, a repeated letter,
                or a query that is none of the letters; positions count from 1.
        """
        return RetrievalReader().parse(text)


class RetrievalReader:
    """Strings typed by hand, and the digits that answer them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(DIGITS)

    def parse(self, text: str) -> NumpyArray:
        symbols = text.strip()
        _check_layout(symbols)
        _check_letters(symbols)
        return np.array([SYMBOLS.index(symbol) for symbol in symbols], dtype=np.int64)

    def labels(self, inputs: NumpyArray) -> tuple[str, ...]:
        """The symbols."""
        return tuple(SYMBOLS[int(symbol)] for symbol in inputs)

    def pictures(self, inputs: NumpyArray) -> None:
        """None: symbols are no pictures."""
        return


def _fault(symbols: str, what: str) -> ConfigError:
    return ConfigError(
        f"input {symbols!r}: {what}; write letter-digit pairs, '??' and one of the "
        "letters, e.g. 'c9k8j3f1??c'"
    )


def _check_layout(symbols: str) -> None:
    """Refuse a string that is not pairs, two marks and a letter."""
    if len(symbols) < 5 or len(symbols) % 2 == 0:
        raise _fault(
            symbols, f"expected 2K + 3 symbols for K >= 1 pairs, got length={len(symbols)}"
        )
    letter, digit, mark = ("a letter a-z", LETTERS), ("a digit 0-9", DIGITS), ("'?'", MARK)
    layout = [letter, digit] * ((len(symbols) - 3) // 2) + [mark, mark, letter]
    for position, (symbol, (wanted, allowed)) in enumerate(zip(symbols, layout, strict=True), 1):
        if symbol not in SYMBOLS:
            raise _fault(
                symbols, f"position {position}: expected {wanted}, got unknown symbol {symbol!r}"
            )
        if symbol not in allowed:
            raise _fault(symbols, f"position {position}: expected {wanted}, got {symbol!r}")


def _check_letters(symbols: str) -> None:
    """Refuse a repeated letter, and a query that was not stored."""
    keys, query = symbols[:-3:2], symbols[-1]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise _fault(
                symbols,
                f"position {2 * index + 1}: expected a letter not used yet, got repeated {key!r}",
            )
    if query not in keys:
        raise _fault(
            symbols,
            f"position {len(symbols)}: expected one of the letters {', '.join(keys)}, "
            f"got query={query!r}",
        )


def load(spec: Spec, data_dir: Path | None = None) -> Retrieval:
    """The retrieval task of `spec`; its strings are generated, and there is no folder to name."""
    return Retrieval(spec)


def reader(spec: Spec) -> RetrievalReader:
    """What the task makes of one string."""
    return RetrievalReader()
