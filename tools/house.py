"""The house in numbers: its rooms, the arrows and circles of its imports, its words.

python -m tools.house --root DIR --out results/house-before.json

It reads the layout of ten import names (`fwcore`, `cli`, `sweeps` ...) and that of one, `fwt`; a
link is not followed. A room is a folder at the root, or a folder of `fwt/`. All rooms but `tests`
and `tools` are the product. What is counted:

- files, lines, and lines of code (with more than a comment or a docstring) of Python by room;
- arrows: pairs of modules of which one imports the other, by their rooms;
- circles: modules that import each other, directly or through others;
- `Any`: the name in code, annotations and imports included, a thousand lines of any kind;
- participles: functions and methods whose last word is a participle, by its ending or by
  `IRREGULAR`, and whose first word is none of `VERBS`;
- See: docstrings that begin with "See ".

Arrows and circles take import statements inside of functions and leave out those below
`if TYPE_CHECKING:`. All but the first line are counted in the product alone.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "fwt"  # the one import name, and the folder of further rooms
ASIDE = ("tests", "tools")  # not of the product
ROOTS = ("fwcore", "backends", "tasks", "cli", NAME, "benchmarks", "sweeps", "reproduce", "figures",
         "reports", "demo", *ASIDE)  # fmt: skip
BLANK = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
         tokenize.ENDMARKER)  # fmt: skip
IRREGULAR = """been begun broken brought built caught chosen done drawn driven fallen fed found
given gone grown heard held hidden kept known laid left lent lost made meant met paid said seen sent
shown spent spoken stood stuck sworn taken taught thought thrown told torn understood woken won worn
written"""
REGULAR_LOOK = "bed embed exceed feed need proceed seed shed speed succeed"  # no participles
VERBS = "is are was has have can check refuse read start stop"  # check_installed is no participle


@dataclass(frozen=True)
class Module:
    """A file of Python.

    Attributes:
        path: from the root, its parts separated by /.
        name: what it is imported by; a package's is its folder's.
        room: the folder it counts for.
        text: what it holds.
        tree: the same, parsed.
    """

    path: str
    name: str
    room: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """All its lines."""
        return len(self.text.splitlines())

    @property
    def code(self) -> int:
        """Its lines with a token that is neither a comment nor a docstring."""
        words = {(node.lineno, node.col_offset) for node, _ in docstrings(self)}
        rows: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in BLANK and token.start not in words:
                rows |= set(range(token.start[0], token.end[0] + 1))
        return len(rows)


def modules(root: Path) -> list[Module]:
    """Every Python file of the rooms below a checkout, links left out."""
    one_name = (root / NAME).is_dir()
    files = [
        Path(folder, name)
        for top in ROOTS
        for folder, _, names in os.walk(root / top)
        for name in sorted(names)
        if name.endswith(".py") and not Path(folder, name).is_symlink()
    ]
    return [module(file.relative_to(root), file.read_text("utf-8"), one_name) for file in files]


def module(path: Path, text: str, one_name: bool) -> Module:
    """A file as a module, which `one_name` puts below `NAME`."""
    parts = path.with_suffix("").parts
    room = "/".join(parts[:2]) if parts[0] == NAME and len(parts) > 2 else parts[0]
    above = (NAME,) if one_name and parts[0] not in (NAME, *ASIDE) else ()
    name = ".".join(above + parts).removesuffix(".__init__")
    return Module(path.as_posix(), name, room, text, ast.parse(text))


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from nodes(child)


def imports(one: Module, names: Collection[str]) -> set[str]:
    """The modules among `names` that a module imports."""
    wanted: set[str] = set()
    for node in nodes(one.tree):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                wanted.add(whole if whole in names else str(node.module))
    return {name for name in wanted if name in names and name != one.name}


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected parts of a graph that have more than one member (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    parts: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        waiting.append(name)
        for other in arrows[name]:
            if other not in order:
                visit(other)
            if other in waiting:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            at = waiting.index(name)
            parts.append(sorted(waiting[at:]))
            del waiting[at:]

    for name in arrows:
        if name not in order:
            visit(name)
    return sorted(part for part in parts if len(part) > 1)


def docstrings(one: Module) -> Iterator[tuple[ast.stmt, str]]:
    """The docstrings of a file: the statements, and what they say."""
    for node in ast.walk(one.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0], text


def any_names(one: Module) -> int:
    """How often the name `Any` stands in code."""
    tokens = tokenize.generate_tokens(io.StringIO(one.text).readline)
    return sum(token.type == tokenize.NAME and token.string == "Any" for token in tokens)


def is_participle(function: str) -> bool:
    """Whether a function's name ends in a participle and does not begin with a verb."""
    words = function.strip("_").split("_")
    if words[0] in VERBS.split() or words[-1] in REGULAR_LOOK.split():
        return False
    return words[-1].endswith("ed") or words[-1] in IRREGULAR.split()


def participles(one: Module) -> list[str]:
    """The functions and methods of a file that are named by participles."""
    return [
        f"{one.path}: {node.name}"
        for node in ast.walk(one.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_participle(node.name)
    ]


def house(root: Path) -> dict[str, Any]:
    """All counts of a checkout, as the file of results says them."""
    everything = modules(root)
    product = [one for one in everything if one.room not in ASIDE]
    rooms = {one.name: one.room for one in product}
    arrows = {one.name: sorted(imports(one, rooms)) for one in product}
    between = Counter(
        f"{rooms[name]} -> {rooms[other]}"
        for name, others in arrows.items()
        for other in others
        if rooms[name] != rooms[other]
    )
    circular, lines, uses = circles(arrows), size(product)["lines"], sum(map(any_names, product))
    names = [name for one in product for name in participles(one)]
    return {
        "product": {
            **size(product),
            "arrows_between_rooms": between.total(),
            "pairs_of_rooms": len(between),
            "circles": len(circular),
            "modules_in_circles": sum(map(len, circular)),
            "any": uses,
            "any_a_thousand_lines": round(1000 * uses / lines, 1),
            "participles": len(names),
            "see_docstrings": sum(
                t.startswith("See ") for one in product for _, t in docstrings(one)
            ),
        },
        "rooms": {
            room: size([one for one in everything if one.room == room])
            for room in dict.fromkeys(one.room for one in everything)
        },
        "arrows": dict(sorted(between.items())),
        "circles": circular,
        "participles": names,
    }


def size(some: Collection[Module]) -> dict[str, int]:
    """Files, lines and lines of code."""
    return {"files": len(some), "lines": sum(one.lines for one in some),
            "code": sum(one.code for one in some)}  # fmt: skip


def main() -> None:
    """Count, and write or print the result."""
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="A checkout of either layout.")
    parser.add_argument("--out", type=Path, help="Write the counts as JSON.")
    asked = parser.parse_args()
    text = json.dumps(house(asked.root), indent=1) + "\n"
    if asked.out is None:
        print(text, end="")
    else:
        asked.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
