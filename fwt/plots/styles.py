"""How a line looks in every picture: one table."""

from __future__ import annotations

from typing import Any, NamedTuple


class Style(NamedTuple):
    """The look of a line.

    Attributes:
        colour: one of Okabe & Ito 2008: apart for colour-blind eyes, and in lightness.
        dashes: as Matplotlib takes them; they and the markers tell lines apart in grey.
        marker: the shape of its points.
    """

    colour: str
    dashes: Any
    marker: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of Matplotlib that draw it."""
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.marker}


STYLES = (
    Style("#000000", "-", "o"),
    Style("#0072B2", "--", "s"),
    Style("#E69F00", "--", "^"),
    Style("#009E73", (0, (5, 1, 1, 1, 1, 1)), "D"),
    Style("#CC79A7", "-.", "v"),
    Style("#56B4E9", ":", "P"),
    Style("#D55E00", "-.", "x"),
)
# what the figures of the papers show has one look in all of them
OF_NAME = {
    "fast-weights": STYLES[0],
    "lstm": STYLES[1],
    "layer norm": STYLES[2],
    "convnet": STYLES[3],
    "irnn": STYLES[5],
    "alstm": STYLES[6],
}
