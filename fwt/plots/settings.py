"""Matplotlib with settings of its own while we draw, whatever the user's are.

Every other file takes Matplotlib from here, or imports it after this one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fwt.fwcore.variables import variables

SIZE = 9  # points of text
OURS = {"font.size": SIZE, "svg.hashsalt": "fwt", "axes.titlesize": SIZE}


def _matplotlib() -> ModuleType:
    """Matplotlib, also where its import fails by the user's MPLBACKEND or matplotlibrc.

    It is imported as the user would import it, and only where that fails without their settings.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module("matplotlib")
    except (ValueError, OSError):  # an unknown backend; a file that is no text, or is not readable
        half = [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]
        for name in half:
            del sys.modules[name]
    found = find_spec("matplotlib")
    assert found is not None  # noqa: S101 it was imported in part
    assert found.origin is not None  # noqa: S101
    # of all files matplotlibrc that of the working directory is taken: here, the defaults
    with variables(MPLBACKEND="agg"), chdir(Path(found.origin).parent / "mpl-data"):
        return import_module("matplotlib")


mpl = _matplotlib()
# the backend is for windows, which no picture needs; to set it would choose one
_DEFAULTS = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}


@contextmanager
def defaults() -> Iterator[None]:
    """Matplotlib's defaults and `OURS` hold inside; then again what held before.

    As `@defaults()` it is for functions that make, change or write a figure: Matplotlib reads
    settings at each of these.
    """
    with mpl.rc_context(_DEFAULTS | OURS):
        yield
