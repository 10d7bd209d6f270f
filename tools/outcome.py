"""How a long proof ends: where it ran, its result kept or shown, and its exit code."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fwt.fwcore.storage.durable import write_text


def place(libraries: Iterable[str]) -> dict[str, Any]:
    """The versions and the kind of machine, for the result."""
    return {
        "versions": {"python": platform.python_version(), **{n: version(n) for n in libraries}},
        "platform": f"{platform.system()} {platform.machine()}",
    }


def kept(result: dict[str, Any], out: Path | None) -> int:
    """Write the result, or print it without a file; 1 if it counts anything `bad`."""
    text = json.dumps(result, indent=1) + "\n"
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
    return int(bool(result["bad"]))
