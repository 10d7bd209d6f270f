"""Collect finished runs into one JSON file and print them as a table for the README.

python -m tools.collect_results runs/results benchmarks/results/recipes.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FACTS = (
    "model",
    "dataset",
    "published_pct",
    "commit",
    "backend",
    "device",
    "memory",
    "torch",
    "mlx",
    "numpy",
    "python",
    "processor",
)


def row_of(run: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    done, spec, sessions = (
        json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("DONE", "spec.json", "run.json")
    )
    first, last = sessions["sessions"][0], sessions["sessions"][-1]
    return {
        "task": spec["task"]["kind"],
        "recipe": spec["recipe"],
        "size": spec["model"]["core"]["size"],
        "seed": spec["train"]["seed"],
        "command": "fwt " + " ".join(first["argv"]),
        "test_error_pct": done["test"]["error_pct"],
        "test_examples": done["test"]["examples"],
        "val_error_pct": done["val"]["error_pct"],
        "steps": done["steps"],
        "train_s": done["train_s"],
        **{key: last[key] for key in FACTS if key in last},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| task | R | backend | seed | test error | published | updates | time | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        published = "-" if row["published_pct"] is None else f"{row['published_pct']:.2f}%"
        lines.append(
            f"| {row['task']} | {row['size']} | {row['backend']}, {row['device']} | {row['seed']} "
            f"| {row['test_error_pct']:.2f}% | {published} | {row['steps']:,} "
            f"| {row['train_s'] / 60:.1f} min | `{row['command']}` |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read every finished run below the first argument, write the second."""
    runs, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [row_of(path.parent) for path in sorted(runs.rglob("DONE"))]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
