"""Code for a Python in which some packages cannot be imported."""

from __future__ import annotations

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is blocked by the test")

sys.meta_path.insert(0, Blocker())
"""


RUN = "from fwt.cli.main import run\nsys.exit(run(sys.argv[1:]))\n"


def blocked(*names: str) -> str:
    return BLOCK.format(names=names)
