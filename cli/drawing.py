"""What verbs that draw check before they compute anything."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def check_drawing(paths: Sequence[Path | None]) -> None:
    """Refuse pictures that could not be drawn.

    Raises:
        BackendError: without Matplotlib.
        ConfigError: a name says no kind of picture.
    """
    wanted = [path for path in paths if path is not None]
    if not wanted:
        return
    check_installed("figure", "matplotlib")
    from fwt.plots import canvas

    for path in wanted:
        canvas.check_path(path)


def check_installed(where: str, *packages: str) -> None:
    """Refuse what needs a package that is not there. Raises BackendError."""
    from fwt.fwcore.errors import BackendError

    gone = [package for package in packages if find_spec(package) is None]
    if gone:
        names = " and ".join(gone)
        raise BackendError(f"{where}: {names} is not installed; pip install 'fwt[plots]'")
