"""The random choices of one case: a pure function of the seed, the reader and the case's number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from fwt.fwcore.rng import Stream

T = TypeVar("T")

BLOCK = 64  # words drawn at once


class Dice:
    """Random choices.

    Args:
        seed: of all cases.
        reader: the reader's name.
        number: of the case.
    """

    def __init__(self, seed: int, reader: str, number: int) -> None:
        self._stream, self._words = Stream(seed, "fuzz", reader, number), []  # type: list[int]

    def below(self, bound: int) -> int:
        """A number in 0..bound-1; the bias of the remainder does not matter here."""
        if not self._words:
            self._words = self._stream.words(BLOCK).tolist()
        return self._words.pop() % bound

    def one_in(self, count: int) -> bool:
        """True once in so many times."""
        return self.below(count) == 0

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, which must not be empty."""
        return choices[self.below(len(choices))]

    def octets(self, count: int) -> bytes:
        """So many random bytes."""
        return bytes(self.below(256) for _ in range(count))
