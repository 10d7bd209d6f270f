"""One run on 1, 2 and 4 processes: the same losses, and what it costs or gains.

    python -m tools.ranks --out results/ranks.json

starts `fwt train` by itself, with torchrun and with mlx.launch, 100 updates each, and compares the
training loss of every ten updates. The processes share the cores of this machine, so that more of
them than cores can only be slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fwt import backends, environment
from tools.outcome import kept, place

COUNTS = (1, 2, 4)
SETTINGS = (
    "--task", "retrieval", "--size", "50", "--steps", "100", "--log-every", "10",
    "--eval-every", "100", "--dropout", "0.1", "--seed", "0", "--device", "cpu", "--quiet",
)  # fmt: skip
HELD = 1e-5  # relative difference of a loss


def command(backend: str, count: int) -> list[str]:
    """What starts `fwt` in so many processes."""
    folder = Path(sys.executable).parent
    if count == 1:
        return [sys.executable, "-m", "fwt"]
    if backend == "torch":
        start = [f"{folder}/torchrun", "--standalone", f"--nproc-per-node={count}"]
        return [*start, "-m", "fwt"]
    start = [f"{folder}/mlx.launch", "-n", str(count), "--backend", "ring", "--"]
    return [*start, sys.executable, "-m", "fwt"]


def losses(backend: str, count: int) -> tuple[list[float], float]:
    """The training losses of a run, and its examples a second after the first ten updates."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        words = [*command(backend, count), "train", "--backend", backend, *SETTINGS]
        threads = {"OMP_NUM_THREADS": "1", "FWT_OFFLINE": "1"}
        done = subprocess.run(
            [*words, "--out", str(run)], env=os.environ | threads, capture_output=True, text=True
        )
        if not (run / "DONE").exists():
            raise RuntimeError(f"{backend} on {count} processes: {done.stderr}")
        text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [each for each in map(json.loads, text.splitlines()) if each["split"] == "train"]
    speeds = sorted(line["examples_per_s"] for line in lines[1:])
    return [line["loss"] for line in lines], speeds[len(speeds) // 2]


def compared(backend: str) -> list[dict[str, Any]]:
    """Every number of processes beside one."""
    rows: list[dict[str, Any]] = []
    alone: list[float] = []
    for count in COUNTS:
        found, speed = losses(backend, count)
        alone = alone or found
        gaps = [abs(a - b) / b for a, b in zip(found, alone, strict=True)]
        row = {
            "backend": backend,
            "processes": count,
            "loss_at_100": found[-1],
            "largest_relative_gap": max(gaps),
            "examples_per_s": speed,
            "times_one_process": round(speed / rows[0]["examples_per_s"], 2) if rows else 1.0,
        }
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Compare, and keep the result; 1 if a loss is further from that of one process than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to keep the result")
    asked = parser.parse_args()
    rows = [row for name in backends.TRAINING_ORDER for row in compared(name)]
    result = {
        "command": "python -m tools.ranks --out results/ranks.json",
        "settings": list(SETTINGS),
        "held_to": HELD,
        "bad": sum(row["largest_relative_gap"] > HELD for row in rows),
        "cores": os.cpu_count(),
        "commit": environment.commit(),
        **place(("fwt", "torch", "mlx")),
        "rows": rows,
    }
    return kept(result, asked.out)


if __name__ == "__main__":
    sys.exit(main())
