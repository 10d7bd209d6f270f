"""The source files of the product, and what each imports."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.cli_tools import ROOT

# room -> the rooms that its files may import, beside itself; all of it is below the name fwt
ARROWS = {
    "cli": {"fwt", "tasks", "backends", "fwcore"},
    "fwt": {"tasks", "backends", "fwcore"},
    "tasks": {"fwcore"},
    "backends": {"fwcore"},
    "fwcore": set(),
}
FILES = sorted(path for room in ARROWS for path in (ROOT / room).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """The names that a file imports, also lazily and by `importlib`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return found
