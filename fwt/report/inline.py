"""A picture inside a page: SVG with ids of its own, in the page's letters and colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from fwt.plots.canvas import DPI
from fwt.plots.settings import defaults, mpl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = 10  # points of text; a page may show a picture smaller than it is
PIXELS = 96 / 72  # of a page, a point

# what a picture is drawn in -> what the page calls it, so that it can be dark; black is the
# colour of the page's text, also where SVG leaves it out
COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#e6e6e6": "var(--line)",
    "#cccccc": "var(--line)",
    "#0072b2": "var(--blue)",
}
SPACES = {"": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}


@defaults()
def inline(figure: Figure, mark: str, words: str) -> tuple[str, int]:
    """A figure as an `svg` element.

    Args:
        figure: the figure.
        mark: begins all its ids; another for each picture of a page.
        words: what it shows, for those who do not see it.

    Returns:
        The element, and the width in CSS pixels at which its text is as large as it says.
    """
    _enlarge(figure)
    written, width = io.StringIO(), round(figure.get_figwidth() * 72 * PIXELS)
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(written, format="svg", dpi=DPI, transparent=True, metadata={"Date": None})
    # what Matplotlib has just written is no foreign file
    root = ElementTree.fromstring(written.getvalue())  # noqa: S314
    for prefix, space in SPACES.items():
        ElementTree.register_namespace(prefix, space)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # styles would be the whole page's
                parent.remove(child)
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', written.getvalue()))
    for element in root.iter():
        if element.get("id") not in used:  # Matplotlib gives equal pictures equal ones
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            element.set(name, _own(name, value, mark))
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": words}
    return ElementTree.tostring(root, encoding="unicode"), width


def _enlarge(figure: Figure) -> None:
    """No text smaller than `SMALLEST`."""
    from matplotlib.text import Text

    for axis in figure.axes:
        axis.tick_params(labelsize=SMALLEST)
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), SMALLEST))


def _own(name: str, value: str, mark: str) -> str:
    """An attribute with the picture's own ids and the page's colours."""
    if name == "id":
        return f"{mark}-{value}"
    if name.endswith("href") and value.startswith("#"):
        return f"#{mark}-{value[1:]}"
    value = value.replace("url(#", f"url(#{mark}-")
    if name == "style":
        return re.sub("#[0-9a-f]{6}", lambda found: COLOURS.get(found[0], found[0]), value)
    return value
