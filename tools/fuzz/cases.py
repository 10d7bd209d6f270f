"""Cases run one after another in this process, each in a fresh folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.fuzz.guard import Guard, Verdict
from tools.fuzz.readers import Reader
from tools.fuzz.tree import OUTSIDE, put, size

MOST_KEPT = 20  # findings of a process that are told in full


@dataclass
class Tally:
    """How the cases of a reader ended.

    Attributes:
        counts: kind of verdict -> cases.
        findings: the first of them, as JSON data.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, reader: Reader, number: int, verdict: Verdict) -> None:
        """Count a case."""
        self.counts[verdict.kind] += 1
        if verdict.bad and len(self.findings) < MOST_KEPT:
            self.findings.append({"reader": reader.name, "case": number, "kind": verdict.kind,
                                  "text": verdict.text, "trace": verdict.trace})  # fmt: skip


class Bench:
    """Where the cases of a process are made and run.

    Args:
        root: an empty folder; the cases' folder and one that nothing may touch are made in it.
    """

    def __init__(self, root: Path) -> None:
        self.here = root / "here"
        self._outside = self.here / OUTSIDE
        self._outside.resolve().mkdir()
        (root / "outside" / "kept").write_text("kept")
        self.guard = Guard(self.here)

    def warm(self, reader: Reader) -> None:
        """Read the sample itself, which must be accepted; imports and caches are filled by it."""
        for _ in range(3):
            put(self.here, reader.sample())
            reader.read(self.here)
        self.guard.settle()

    def run(self, reader: Reader, seed: int, number: int) -> Verdict:
        """One case."""
        tree = reader.case(seed, number)
        put(self.here, tree)
        before = sorted(os.listdir(self.here))
        found = self.guard.judge(size(tree), lambda: reader.read(self.here))
        if self._touched():
            return Verdict("escape", "a file outside the folder was changed")
        if not reader.writes and sorted(os.listdir(self.here)) != before:
            return Verdict("escape", f"files were left: {os.listdir(self.here)}")
        return replace(found, text=found.text.replace(str(self.here), "HERE"))

    def _touched(self) -> bool:
        outside = self.here.parent / "outside"
        kept = outside / "kept"
        return os.listdir(outside) != ["kept"] or kept.read_bytes() != b"kept"

    def run_all(
        self, reader: Reader, seed: int, numbers: Iterable[int], told: Path | None
    ) -> Tally:
        """Cases by their numbers; each number is written to `told` before its case begins."""
        self.warm(reader)
        tally = Tally()
        for number in numbers:
            if told is not None:
                told.write_text(str(number))
            tally.add(reader, number, self.run(reader, seed, number))
        return tally
