"""The figures as pictures that can be read in grey and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fwt.fwcore.storage.durable import make_folder
from fwt.plots import canvas
from fwt.plots.settings import defaults
from fwt.reproduce.curves import Figure, Line

# style -> colour, dashes, marker. The colours are those of Okabe & Ito 2008, which differ in
# lightness too; dashes and markers tell lines apart without them.
STYLES = {
    "fast-weights": ("#000000", "-", "o"),
    "lstm": ("#0072b2", "--", "s"),
    "alstm": ("#d55e00", "-.", "^"),
    "irnn": ("#56b4e9", ":", "v"),
    "convnet": ("#009e73", (0, (5, 1, 1, 1, 1, 1)), "D"),
    "layer norm": ("#e69f00", "--", "P"),
}
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
    lines: dict[str, Any] = {}
    for place in places[0]:
        handles, names = place.get_legend_handles_labels()
        lines |= dict(zip(names, handles, strict=True))
    picture.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=4,
                   frameon=False)  # fmt: skip
    picture.suptitle(figure.title)
    canvas.save(picture, path)
    return path


def _line(place: Any, line: Line) -> None:
    colour, dashes, marker = STYLES[line.style]
    place.plot(
        line.x,
        line.middle,
        label=line.label,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=5,
        markevery=max(1, len(line.x) // MARKS),
    )
    if line.low != line.high:
        place.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
