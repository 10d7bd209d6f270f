"""What the pages of the documentation say."""

from __future__ import annotations

import re
from pathlib import Path

from tools.guides import ROOT

CODES = re.compile(r"^\| ([\d, ]+) \| [^|]+ \| ?([^|]*)\|$", re.MULTILINE)


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")
