"""Many thousands of damaged files through every reader of `fwt`.

python -m tests.fuzz --cases 100000 --seed 0 --out results/fuzz.json

A case is a function of the seed, the reader and its number (see `cases`): a finding is shown again
by `python -m tests.fuzz --seed S --reader NAME --case N`, also one that ended its process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.cases import SHARES, cases_of, draw, numbers
from tests.fuzz.judge import Judge
from tests.fuzz.verdict import Verdict

LIBRARIES = ("fwt", "hypothesis", "numpy", "safetensors", "pydantic", "torch", "pillow", "filelock")
ENOUGH = 20  # findings of a reader that the result has


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="Of all readers together.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=SHARES, help="Only this one.")
    parser.add_argument("--case", type=int, help="One case by its number.")
    parser.add_argument("--out", type=Path, help="Write the result as JSON.")
    return parser.parse_args()


def verdicts(judge: Judge, name: str, seed: int, cases: Iterable[int]) -> Iterator[Verdict]:
    """How each case of a reader ended; one is drawn while the one before it is read."""
    strategy, waits = cases_of(judge.take(name)), False
    for number in cases:
        case = draw(strategy, name, seed, number)
        if waits:
            yield judge.verdict()
        judge.send(case)
        waits = True
    if waits:
        yield judge.verdict()


def sweep(cases: dict[str, range], seed: int) -> dict[str, Any]:
    """All cases of some readers; what the file of results says of them."""
    counts: dict[str, dict[str, int]] = {}
    findings: list[dict[str, Any]] = []
    peak = 0
    with Judge() as judge:
        for name, some in cases.items():
            count, bad = counts.setdefault(name, {"accepted": 0, "refused": 0}), 0
            for number, verdict in zip(some, verdicts(judge, name, seed, some), strict=True):
                count[verdict.kind] = count.get(verdict.kind, 0) + 1
                peak = max(peak, verdict.peak)
                if verdict.bad:
                    bad += 1
                    finding = {"reader": name, "case": number, "kind": verdict.kind}
                    print(finding, verdict.text, verdict.trace, sep="\n", file=sys.stderr)
                    findings += [finding | {"text": verdict.text}] * (bad <= ENOUGH)
            print(f"{name:14} {sum(count.values()):6}  {count}", file=sys.stderr, flush=True)
    total = sum(sum(count.values()) for count in counts.values())
    good = sum(count["accepted"] + count["refused"] for count in counts.values())
    return {"seed": seed, "cases": total, "bad": total - good, "readers": counts,
            "findings": findings, "largest_peak_bytes": peak}  # fmt: skip


def main() -> int:
    """Run what was asked for; 1 if there is a finding."""
    asked = options()
    os.environ["FWT_OFFLINE"] = "1"  # nothing is downloaded
    cases = numbers(asked.reader, asked.cases)
    if asked.case is not None:
        cases = dict.fromkeys(cases, range(asked.case, asked.case + 1))
    start = time.monotonic()
    result = sweep(cases, asked.seed)

    from tools.outcome import kept, place  # has some of the product: see `cases`

    command = f"python -m tests.fuzz --cases {asked.cases} --seed {asked.seed}"
    seconds = round(time.monotonic() - start, 1)
    return kept({"command": command, **result, "seconds": seconds, **place(LIBRARIES)}, asked.out)


if __name__ == "__main__":
    sys.exit(main())
