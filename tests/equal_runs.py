"""Whether two runs are the same, but for what depends on the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli_tools import snapshot

CLOCK = ("time", "elapsed_s", "examples_per_s")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in CLOCK} for row in found]


def tensors(run: Path) -> dict[str, bytes]:
    found = snapshot(run / "checkpoints")
    return {name: content for name, content in found.items() if name.endswith(".safetensors")}


def same_run(one: Path, other: Path) -> None:
    """Equal weights, moments, metrics, pointers and results, bit for bit."""
    assert metrics(one) == metrics(other)
    assert tensors(one) == tensors(other)
    for pointer in ("best", "last"):
        assert (one / pointer).read_text() == (other / pointer).read_text()
    results = [json.loads((run / "DONE").read_text()) for run in (one, other)]
    for result in results:
        result.pop("train_s")
    assert results[0] == results[1]
    assert not [name for name in snapshot(one) if ".partial" in name or ".old" in name]
