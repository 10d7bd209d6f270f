"""How the guides and docstrings become a site, no page of which fetches anything: `make docs`."""

from __future__ import annotations

import io
import re
import sys
from functools import cache
from html import escape
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from fwt.plots.settings import defaults, mpl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "fwt"
author = "The fwt authors"
copyright = author
release = version = version_of("fwt")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# Markdown as code hosts read it: $x$, and links to headings
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "paths"

# docstrings: Google's sections, `code` between single backticks
default_role = "code"
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# names of other libraries have no page here, and words before a colon are no types
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!fwt\.(fwcore|backends|tasks)\.).*"),
    ("py:class", r".*\.T"),  # a type variable
]
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "exclude-members": "model_config, __init__, __new__"}

html_static_path = ["_static"]
html_theme = "furo"
html_title = f"fwt {version}"
html_copy_source = False
html_show_sphinx = False
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

LINK = re.compile(r"\]\(([\w/-]+)\.md\)")
LISTS = ("index", "api")  # pages whose sections list other pages
OUTSIDE = re.compile(r"(?<!!)\[([^]]+)]\(\.\./[^)]+\)")  # a link to a file that is no page
BARS = re.compile(r"\|([^|`]+)\|")  # |x|, which reStructuredText takes for a substitution

ARRAY = re.compile(r"~?numpy\.ndarray\[~?typing\.Any, ~?numpy\.dtype\[~?typing\.Any\]\]")

POINTS = 100  # that a formula is drawn in; it is shown in the size of the text


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Drop links that lead out of the guides; a page that lists others is a table of contents."""
    source[0] = OUTSIDE.sub(r"\1", source[0])
    if name not in LISTS:
        return
    for part in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        caption, *_ = part.splitlines()
        pages = "\n".join(dict.fromkeys(LINK.findall(part)))
        if not pages:
            continue
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def as_text(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: keep bars, and the lines of a module's equations."""
    lines[:] = [BARS.sub(r"\|\1\|", line) for line in lines]
    if what != "module":
        return
    for number in range(len(lines) - 1, 0, -1):
        if lines[number].startswith("    ") and not lines[number - 1].strip():
            lines[number:number] = ["::", ""]


def short(
    app: Sphinx, what: str, name: str, of: Any, options: Any, signature: str, result: str
) -> tuple[str | None, str | None]:
    """Signatures with `ndarray` for what NumPy calls ndarray[Any, dtype[Any]]."""
    plain, given = (text and ARRAY.sub("~numpy.ndarray", text) for text in (signature, result))
    return plain, given


@cache
def drawn(formula: str) -> str:
    """A TeX formula as an SVG in units of the text around it, drawn by Matplotlib.

    Paths, so that it looks the same where a browser has no font for mathematics.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    file = io.BytesIO()
    font = FontProperties(size=POINTS, math_fontfamily="stix")
    with defaults(), mpl.rc_context({"savefig.transparent": True, "svg.fonttype": "path"}):
        depth = math_to_image(f"${formula}$", file, prop=font, dpi=72, format="svg")
    image = file.getvalue().decode()
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', image)
    shapes = re.search(r'<g id="figure_1">.*(?=</svg>)', image, re.DOTALL)
    if box is None or shapes is None:
        raise ValueError(f"Matplotlib drew {formula!r} in a way that is not known here")
    width, height = (float(side) / POINTS for side in box.groups())
    inner = re.sub(r' id="(figure|patch|text)_1"|<!--.*?-->', "", shapes[0], flags=re.DOTALL)
    return (
        f'<svg class="formula" role="img" aria-label="{escape(formula)}" '
        f'viewBox="0 0 {box[1]} {box[2]}" style="width:{width:.3f}em;height:{height:.3f}em;'
        f'vertical-align:{-depth / POINTS:.3f}em">{inner}</svg>'
    )


def inline_math(self: Any, node: nodes.Element) -> None:
    """A formula within a line."""
    self.body.append(drawn(node.astext()))
    raise nodes.SkipNode


def block_math(self: Any, node: nodes.Element) -> None:
    """A formula of its own, in a frame that scrolls where the window is narrow."""
    self.body.append(f'<div class="math-frame">{drawn(node.astext().strip())}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", as_text, priority=100)
    app.connect("autodoc-process-signature", short)
    app.add_html_math_renderer("paths", (inline_math, None), (block_math, None))
    app.add_css_file("fwt.css")
