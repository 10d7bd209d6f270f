"""How a command fails: one clear line on stderr and a documented exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from fwcore.errors import FwtError

_debug = False


def set_debug(value: bool) -> bool:
    """Remember whether tracebacks are wanted (the callback of `--debug`)."""
    global _debug
    _debug = _debug or value
    return value


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=file or sys.stderr)


def guarded(run: Callable[[], Any]) -> int:
    """Run a command; an error that `fwt` raises on purpose becomes one line and its exit code.

    Warnings of the product are shown as one line each. Anything else is a fault of the product
    and keeps its traceback.
    """
    warnings.showwarning = _show_warning
    try:
        run()
    except FwtError as error:
        if _debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
