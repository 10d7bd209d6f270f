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
    from fwcore.errors import BackendError

    wanted = [path for path in paths if path is not None]
    if not wanted:
        return
    if find_spec("matplotlib") is None:
        raise BackendError("figure: Matplotlib is not installed; pip install 'fwt[plots]'")
    from figures import canvas

    for path in wanted:
        canvas.check_path(path)
