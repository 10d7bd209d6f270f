"""The script that counts the house: a small planted tree, in both layouts, with known counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli_tools import ROOT
from tools.house import circles, house, is_participle

A = '''"""See b for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any  # Any in a comment

from {0}backends import b

if TYPE_CHECKING:
    from {0}cli import c


def told(value: Any) -> Any:
    """Any in a docstring."""
    import {0}fwcore.d
    return value
'''
FILES = {
    "fwcore/__init__.py": "",
    "fwcore/a.py": A,
    "fwcore/d.py": "from {0}fwcore.a import told\n",
    "backends/__init__.py": "",
    "backends/b.py": "class B:\n\n    # no code\n    def is_made(self) -> None: ...\n",
    "cli/c.py": "from {0}fwcore import a, d\nfrom {0}backends.b import B\n",
    "tests/test_x.py": "from typing import Any\n\n\ndef found(): ...\n",
}


@pytest.fixture(name="tree", params=["ten names", "one name"])
def _tree(request, tmp_path):
    one = request.param == "one name"
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format("fwt." if one else ""))
    if one:
        (tmp_path / "fwt" / "sweep").mkdir(parents=True)
        (tmp_path / "fwt" / "sweep" / "e.py").write_text("import fwt.cli.c\n")
        (tmp_path / "fwt" / "fwcore").symlink_to("../fwcore")
    return tmp_path, one


def test_a_planted_tree_is_counted(tree):
    root, one = tree
    counts = house(root)
    assert counts["product"] == {
        "files": 6 + one,
        "lines": 23 + one,
        "code": 13 + one,
        "arrows_between_rooms": 4 + one,
        "pairs_of_rooms": 3 + one,
        "circles": 1,
        "modules_in_circles": 2,
        "any": 3,
        "any_a_thousand_lines": 125.0 if one else 130.4,
        "participles": 1,
        "see_docstrings": 1,
    }
    assert counts["rooms"]["fwcore"] == {"files": 3, "lines": 17, "code": 9}
    assert counts["rooms"]["tests"] == {"files": 1, "lines": 4, "code": 2}
    below = "fwt." if one else ""
    assert counts["circles"] == [[f"{below}fwcore.a", f"{below}fwcore.d"]]
    assert counts["participles"] == ["fwcore/a.py: told"]
    wanted = {"cli -> backends": 1, "cli -> fwcore": 2, "fwcore -> backends": 1}
    assert counts["arrows"] == wanted | ({"fwt/sweep -> cli": 1} if one else {})


def test_circles_are_the_strongly_connected_parts():
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": ["d"], "f": ["a", "e"]}
    assert circles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("found", True), ("_drawn", True), ("policy_named", True), ("__enter__", False),
     ("seed", False), ("set_seed", False), ("is_closed", False), ("check_installed", False),
     ("read", False), ("draw", False)],
)  # fmt: skip
def test_participles_are_told_from_verbs(name, expected):
    assert is_participle(name) is expected


def test_the_script_writes_what_it_counts(tmp_path):
    out = tmp_path / "house.json"
    words = [sys.executable, "-m", "tools.house", "--root", str(ROOT), "--out", str(out)]
    subprocess.run(words, cwd=ROOT, check=True)
    counts = json.loads(out.read_text())
    assert {"fwcore", "backends", "tasks", "cli", "fwt", "tests"} <= counts["rooms"].keys()
    assert counts["product"]["files"] > 150
