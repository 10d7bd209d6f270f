"""The figures as pictures that can be read in grey and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fwt.fwcore.storage.durable import make_folder
from fwt.plots import canvas
from fwt.plots.settings import defaults
from fwt.plots.styles import OF_NAME
from fwt.reproduce.curves import Figure, Line

MARKS = 12  # markers on a line, at most


def draw(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write the figures that have anything to show.

    Raises:
        FileError: one cannot be written.
    """
    make_folder(folder)
    return [_draw(figure, folder / figure.file) for figure in figures if figure.drawn]


@defaults()
def _draw(figure: Figure, path: Path) -> Path:
    panels = list(dict.fromkeys(line.panel for line in figure.lines))
    width = 1.5 + 5 * len(panels)
    picture, places = canvas.sheet(1, len(panels), (width, 4.2), sharey=True)
    for place, panel in zip(places[0], panels, strict=True):
        for line in figure.lines:
            if line.panel == panel:
                _line(place, line)
        place.set(xlabel=figure.x_label, title=panel)
        place.grid(color="0.9")
        if figure.group == "harder":
            place.set_xticks(sorted({x for line in figure.lines for x in line.x}))
        place.xaxis.set_major_formatter("{x:,.0f}")
    places[0][0].set_ylabel(figure.y_label)
    canvas.legend_of_all(picture, places[0], loc="outside lower center", ncols=4)
    picture.suptitle(figure.title)
    canvas.save(picture, path)
    return path


def _line(place: Any, line: Line) -> None:
    style = OF_NAME[line.style]
    place.plot(
        line.x,
        line.middle,
        label=line.label,
        **style.options,
        markersize=5,
        markevery=max(1, len(line.x) // MARKS),
    )
    if line.low != line.high:
        place.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.15, linewidth=0)
