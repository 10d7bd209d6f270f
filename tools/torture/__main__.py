"""Some hundred training processes killed, stopped and starved; every run must end the same.

python -m tools.torture --kills 400 --seed 0 --out results/torture.json

Every case is a pure function of (seed, backend, number), but the moment of a kill from outside:
a finding is shown again by `python -m tools.torture --seed S --backend NAME --only N`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.outcome import kept, place
from tools.torture.plan import MEANING, ROUND
from tools.torture.start import SETTINGS, Disk, load

BACKENDS = ("torch", "mlx")
LIBRARIES = ("fwt", "numpy", "safetensors", "pydantic", "filelock", "torch", "mlx")


def options(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=400, help="Go on until so many struck.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="Only this one.")
    parser.add_argument("--only", type=int, help="One case by its number.")
    parser.add_argument("--out", type=Path, help="Write the result as JSON.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def child(backend: str, seed: int, kills: int, only: int | None) -> dict[str, Any]:
    """The cases of one backend, in this process and those it forks, until so many blows struck."""
    from tools.torture.cases import Bench

    load(backend)
    struck: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    places: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    cases = 0
    with TemporaryDirectory(prefix="fwt-torture-") as name:
        root = Path(name)
        with Disk(root / "disk") as disk:
            bench = Bench(root, backend, seed, disk if os.environ.get("FWT_TORTURE_DISK") else None)
            for number in itertools.count() if only is None else (only,):
                told = bench.case(number)
                struck.update(kind for kind, _ in told.struck)
                places.update(place for _, place in told.struck)
                missed.update(told.missed)
                cases += 1
                if told.faults:
                    faults = [each.replace(str(root), "") for each in told.faults]
                    findings.append({"backend": backend, "case": number, "faults": faults})
                    print(json.dumps(findings[-1], indent=1), file=sys.stderr, flush=True)
                if struck.total() >= kills:
                    break
    return {
        "cases": cases,
        "boundaries": len(bench.points),
        "struck": dict(sorted(struck.items())),
        "missed": dict(sorted(missed.items())),
        "places": dict(sorted(places.items())),
        "findings": findings,
    }


def parent(backend: str, seed: int, kills: int, only: int | None) -> subprocess.Popen[str]:
    """A process for the cases of one backend, with mounts of its own where it may have any."""
    possible = bool(shutil.which("unshare")) and Disk.possible()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FWT_")}
    kept |= {**SETTINGS, "OMP_NUM_THREADS": "1", "MLX_ENABLE_TF32": "0"}
    words = [sys.executable, "-m", "tools.torture", "--seed", str(seed), "--backend", backend,
             "--kills", str(kills), "--worker"]  # fmt: skip
    words += [] if only is None else ["--only", str(only)]
    if possible:
        words, kept = ["unshare", "-m", *words], {**kept, "FWT_TORTURE_DISK": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=kept)


def answers(backends: list[str], seed: int, kills: int, only: int | None) -> dict[str, Any]:
    """What each backend's cases gave; one whose process dies is a finding itself."""
    each = -(-kills // len(backends))
    begun = {backend: parent(backend, seed, each, only) for backend in backends}
    found = {}
    for backend, process in begun.items():
        out, _ = process.communicate()
        if process.returncode:
            fault = {"backend": backend, "case": -1, "faults": [f"code {process.returncode}"]}
            found[backend] = {"cases": 0, "struck": {}, "findings": [fault]}
        else:
            found[backend] = json.loads(out.splitlines()[-1])
    return found


def tortured(asked: argparse.Namespace) -> dict[str, Any]:
    """All cases; what the file of results says."""
    began = time.monotonic()
    found = answers(asked.backend or list(BACKENDS), asked.seed, asked.kills, asked.only)
    findings = [each for answer in found.values() for each in answer.pop("findings")]
    names = [word for name in asked.backend or () for word in ("--backend", name)]
    count = [f"--kills {asked.kills}"] if asked.only is None else [f"--only {asked.only}"]
    return {
        "command": " ".join(["python -m tools.torture", *count, f"--seed {asked.seed}", *names]),
        "seed": asked.seed,
        "cases": sum(answer["cases"] for answer in found.values()),
        "struck": sum(sum(answer["struck"].values()) for answer in found.values()),
        "bad": len(findings),
        "kinds": {kind: MEANING[kind] for kind in sorted(set(ROUND))},
        "backends": found,
        "findings": findings,
        "seconds": round(time.monotonic() - began, 1),
        **place(LIBRARIES),
    }


def main() -> int:
    """Run what was asked for; 1 if there is a finding."""
    asked = options()
    if asked.worker:
        print(json.dumps(child(asked.backend[0], asked.seed, asked.kills, asked.only)))
        return 0
    result = tortured(asked)
    return kept(result, asked.out)


if __name__ == "__main__":
    sys.exit(main())
