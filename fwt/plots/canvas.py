"""What all pictures share: a canvas without a window, and files written whole."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.storage.durable import make_folder, write_bytes
from fwt.plots.settings import defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
DPI = 150


def check_path(path: Path) -> None:
    """Refuse a name that says no kind of picture. Raises ConfigError."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"figure: expected a file name that ends in {' or '.join(SUFFIXES)}, got "
            f"path={str(path)!r}"
        )


@defaults()
def sheet(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure of `size` inches and its axes (rows, columns); no window and no pyplot knows it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend_of_all(figure: Figure, places: Iterable[Any], **options: Any) -> None:
    """One legend beside the axes `places`, each label once."""
    lines: dict[str, Any] = {}
    for place in places:
        handles, names = place.get_legend_handles_labels()
        lines |= dict(zip(names, handles, strict=True))
    figure.legend(list(lines.values()), list(lines), frameon=False, **options)


@defaults()
def save(figure: Figure, path: Path) -> None:
    """Write a picture under its name, whole or not at all.

    Raises:
        ConfigError: the name says no kind of picture.
        FileError: it cannot be written.
    """
    check_path(path)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=DPI)
    make_folder(path.parent)
    write_bytes(path, picture.getvalue())
