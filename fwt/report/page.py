"""The page: the template filled in, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fwt.fwcore.analysis.compare import GRADIENT_TOLERANCE, LOGIT_TOLERANCE, ROUNDING_FACTOR
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.storage.durable import make_folder, write_text
from fwt.report.pictures import Picture

SUFFIX = ".html"
TOLERANCES = {
    "logits": LOGIT_TOLERANCE,
    "gradients": GRADIENT_TOLERANCE,
    "rounding": ROUNDING_FACTOR,
}


def check_path(path: Path) -> None:
    """Refuse a name that is no page's. Raises ConfigError."""
    if path.suffix.lower() != SUFFIX or path.is_dir():
        raise ConfigError(
            f"--out: expected a file name that ends in {SUFFIX}, got path={str(path)!r}"
        )


def render(data: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The page.

    Args:
        data: `split`, `runs` and `sweeps` as `fwt report --json` prints them. All of it is text
            of strangers and is escaped.
        pictures: `curves`, `runs` and `sweeps`, in the same order.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fwt.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "short": short, "duration": duration}
    template = environment.get_template("template.html")
    return template.render(**data, pictures=pictures, version=version("fwt"), tolerances=TOLERANCES)


def _svg(picture: Picture) -> Markup:
    """The element of a picture, in which everything is escaped already."""
    return Markup(picture.svg)  # noqa: S704


def short(value: Any) -> str:
    """A setting or a measurement as a table has it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def duration(seconds: float) -> tuple[str, str]:
    """Number and unit, such as `24.3` and `min`."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}", unit
    return f"{seconds:.1f}", "s"


def write(path: Path, text: str) -> None:
    """The page into its file, in a folder that need not be there. Raises FileError."""
    make_folder(path.parent)
    write_text(path, text)
