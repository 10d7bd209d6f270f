"""The training steps of `fwt bench --out` files as one Markdown table for the README.

python -m tools.bench_table results/bench-*.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = (
    "| backend | B, T, R, S | fast weights | LSTM | GRU | naive | x LSTM | naive x |",
    "|---|---|---|---|---|---|---|---|",
)


def milliseconds(row: dict[str, Any] | None) -> str:
    """A subject's median and interquartile range, or why there is none."""
    if row is None or row["median_ms"] is None:
        return "not run" if row is None else row["status"]
    return f"{row['median_ms']:.3g} ± {row['iqr_ms']:.2g}"


def times(ratio: float | None) -> str:
    """A ratio, where both of its numbers were measured."""
    return "-" if ratio is None else f"{ratio:.2f}"


def lines(path: Path) -> Iterator[str]:
    """A line for every shape of one file, in its order."""
    found = json.loads(path.read_text(encoding="utf-8"))
    threads = found["environment"].get("threads")
    name = found["environment"]["backend"] + (f", {threads} threads" if threads else "")
    shapes: dict[tuple[int, ...], dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        if row["measure"] == "train":
            shape = (row["batch"], row["steps"], row["size"], row["inner"])
            shapes.setdefault(shape, {})[row["subject"]] = row
    for shape, rows in shapes.items():
        ours = rows["auto"]
        cells = [milliseconds(rows.get(who)) for who in ("auto", "lstm", "gru", "naive")]
        ratios = [times(ours["to_lstm"]), times(ours["naive_to"])]
        yield f"| {name} | {', '.join(map(str, shape))} | {' | '.join(cells + ratios)} |"


def main() -> None:
    """Print the table of the files named."""
    print(*HEAD, *(line for path in sys.argv[1:] for line in lines(Path(path))), sep="\n")


if __name__ == "__main__":
    main()
