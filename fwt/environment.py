"""Where a result came from: versions, machine, commit, command line."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The git commit of the product's own checkout, `+` if changed; None outside a checkout."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # no checkout, or installed inside that of another project
    return _git("describe", "--always", "--dirty=+")


def _git(*arguments: str) -> str | None:
    """What git says in the folder of this file; None if it fails or is not there."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def facts(backend_versions: dict[str, str]) -> dict[str, Any]:
    """Versions, machine, commit and arguments of this process, for `run.json`."""
    return {
        "fwt": version("fwt"),
        "commit": commit(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        **backend_versions,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "argv": sys.argv[1:],
        "started": now(),
    }
