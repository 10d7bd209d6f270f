"""The spec of a plain run, as data to be changed."""

from __future__ import annotations

import json
from typing import Any

MODEL: dict[str, Any] = {
    "encoder": {"kind": "embedding", "symbols": 37},
    "core": {"kind": "fast-weights", "size": 20},
    "head": {"classes": 10},
}
RUN: dict[str, Any] = {"task": {"kind": "retrieval"}, "model": MODEL, "train": {"epochs": 1}}


def put(path: str, value: Any) -> dict[str, Any]:
    """The plain run with one value changed or added."""
    data = json.loads(json.dumps(RUN))
    *tables, leaf = path.split(".")
    at = data
    for table in tables:
        at = at.setdefault(table, {})
    at[leaf] = value
    return data
