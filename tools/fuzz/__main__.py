"""Many thousands of damaged files through every reader of `fwt`.

python -m tools.fuzz --cases 100000 --seed 0 --out results/fuzz.json

Every case is a pure function of (seed, reader, number): a finding is shown again by
`python -m tools.fuzz --seed S --reader NAME --case N`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.outcome import kept, place

SLICE = 5000  # cases of a process
SLICE_S = 3600.0  # a process that takes longer is ended; it hangs where no signal reaches it
LIBRARIES = ("fwt", "numpy", "safetensors", "pydantic", "torch", "pillow", "filelock")
SHOWN = ("accepted", "refused")


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="Of all readers together.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="Only this one; may be repeated.")
    parser.add_argument("--case", type=int, help="One case by its number, in this process.")
    parser.add_argument("--out", type=Path, help="Write the result as JSON.")
    parser.add_argument("--slice", nargs=2, type=int, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def slices(names: list[str] | None, cases: int) -> list[tuple[str, int, int]]:
    """Reader, first case and count of each process; the counts are at least `cases` in all.

    Raises:
        SystemExit: an unknown reader.
    """
    from tools.fuzz.readers import READERS

    unknown = set(names or ()) - READERS.keys()
    if unknown:
        sys.exit(f"unknown readers {sorted(unknown)}; known: {', '.join(READERS)}")
    chosen = [reader for name, reader in READERS.items() if not names or name in names]
    total = sum(reader.share for reader in chosen)
    found = []
    for reader in chosen:
        count = -int(-cases * reader.share // total)
        found += [(reader.name, at, min(SLICE, count - at)) for at in range(0, count, SLICE)]
    return found


def child(name: str, seed: int, first: int, count: int, told: Path | None) -> dict[str, Any]:
    """Run a slice here; the last case begun can be read from `told`."""
    from tools.fuzz.cases import Bench
    from tools.fuzz.guard import peak_bytes
    from tools.fuzz.readers import READERS

    with TemporaryDirectory(prefix="fwt-fuzz-") as root:
        os.chdir(root)  # what a pickle writes lands here
        bench, reader = Bench(Path(root)), READERS[name]
        bench.warm(reader)
        bench.guard.limit()
        tally = bench.run_all(reader, seed, range(first, first + count), told)
        os.chdir("/")
    return {"counts": tally.counts, "findings": tally.findings, "peak_bytes": peak_bytes()}


def parent(name: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """Run a slice in a process of its own; one that dies or hangs is a finding itself."""
    with TemporaryDirectory(prefix="fwt-fuzz-") as folder:
        told = Path(folder) / "case"
        words = [sys.executable, "-B", "-m", "tools.fuzz", "--seed", str(seed), "--reader", name,
                 "--slice", str(first), str(count), "--out", str(told)]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SLICE_S)
            if done.returncode == 0:
                answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
                return answer
            how, why = f"exit code {done.returncode}", done.stderr[-2000:]
        except subprocess.TimeoutExpired:
            how, why = f"no end in {SLICE_S:.0f} s", ""
        case = int(told.read_text()) if told.exists() else -1
        finding = {"reader": name, "case": case, "kind": "dead", "text": how, "trace": why}
        return {"counts": {"dead": 1}, "findings": [finding], "peak_bytes": 0}


def swept(names: list[str] | None, seed: int, cases: int) -> dict[str, Any]:
    """All slices, one after another; what the file of results says."""
    counts: dict[str, dict[str, int]] = {}
    findings: list[dict[str, Any]] = []
    began, peak = time.monotonic(), 0
    for name, first, count in slices(names, cases):
        answer = parent(name, seed, first, count)
        kept = counts.setdefault(name, dict.fromkeys(SHOWN, 0))
        for kind, number in answer["counts"].items():
            kept[kind] = kept.get(kind, 0) + number
        findings += answer["findings"]
        peak = max(peak, answer["peak_bytes"])
        for each in answer["findings"]:
            told = f"{each['kind']}: {each['reader']} {each['case']}: {each['text']}"
            print(f"{told}\n{each['trace']}", file=sys.stderr)
        print(f"{name:14} {sum(kept.values()):6}  {kept}", file=sys.stderr, flush=True)
    total = sum(sum(kept.values()) for kept in counts.values())
    bad = sum(n for kept in counts.values() for kind, n in kept.items() if kind not in SHOWN)
    short = [{key: value for key, value in each.items() if key != "trace"} for each in findings]
    words = [word for name in names or () for word in ("--reader", name)]
    return {
        "command": " ".join(["python -m tools.fuzz", f"--cases {cases} --seed {seed}", *words]),
        "seed": seed,
        "cases": total,
        "bad": bad,
        "readers": counts,
        "findings": short,
        "largest_peak_bytes": peak,
        "seconds": round(time.monotonic() - began, 1),
        **place(LIBRARIES),
    }


def main() -> int:
    """Run what was asked for; 1 if there is a finding."""
    asked = options()
    os.environ["FWT_OFFLINE"] = "1"  # nothing is downloaded
    if asked.slice is not None:
        print(json.dumps(child(asked.reader[0], asked.seed, *asked.slice, asked.out)))
        return 0
    if asked.case is not None:
        result = child(asked.reader[0], asked.seed, asked.case, 1, None)
        print(json.dumps(result, indent=1).replace("\\n", "\n"))
        return int(bool(result["findings"]))
    result = swept(asked.reader, asked.seed, asked.cases)
    return kept(result, asked.out)


if __name__ == "__main__":
    sys.exit(main())
