"""Damage to bytes, JSON, lines and folders: what a bad disk, tool or person makes of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.tree import OUTSIDE, Folder, Link, Pipe, Tree

DEEP = 100_000  # levels of a nested file
ODD_NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
ODD_BYTES = (b"\x00", b"\x01", b"\t", b"\n", b" ", b'"', b".", b"/", b"\\", b"\x7f", b"\xff")
BEGINNINGS = (b"\x80\x04", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x93NUMPY", b"\x89PNG",
              b"\xef\xbb\xbf")  # fmt: skip


class Raw(str):
    """JSON text that stands as it is."""


class Pairs(list[Any]):
    """The pairs of a JSON object; a key may come twice."""


ODD_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 0.5, -0.0, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63),
    1e308, 5e-324, None, True, False, "", "0", "1", "null", " ", "a" * 5000, "../../../etc/passwd",
    "/dev/zero", "a\x00b", "\x1b]0;title\x07\x1b[31m", "line\nline", "\u202e\u2066", "é" * 20,
    Raw('"\\ud800"'), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"),
    Raw("1" + "0" * 400), Raw("9" * 5000), Raw("1e-400"), Raw("[" * DEEP + "]" * DEEP),
    Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw("[]"), Raw("{}"), Raw("[[]]"), Raw('{"": {}}'),
    Raw("[" + "0," * 3000 + "0]"), Raw("[1, 2, 3]"), Raw("01"), Raw("'a'"), Raw("undefined"),
)  # fmt: skip

# any number, each as likely: `integers` prefers small ones
WIDE = st.binary(min_size=4, max_size=4).map(lambda four: int.from_bytes(four, "big"))
FEW = st.integers(1, 4)  # changes to one file
WIDTH = st.integers(1, 64)
NOISE = st.binary(min_size=1, max_size=16)
ODD_NUMBER, ODD_BYTE, ODD_VALUE = map(st.sampled_from, (ODD_NUMBERS, ODD_BYTES, ODD_VALUES))

T = TypeVar("T")


def pick(draw: DrawFn, choices: Sequence[T]) -> T:
    """One of them, each as likely."""
    return choices[draw(WIDE) % len(choices)]


def once_in(draw: DrawFn, count: int) -> bool:
    """True once in so many times."""
    return draw(WIDE) % count == 1


# --- bytes ---------------------------------------------------------------------------------


def octets(draw: DrawFn, content: bytes, words: Sequence[bytes] = (b'"', b"\x00")) -> bytes:
    """A file with one to four changes, or, rarely, another one altogether.

    Args:
        draw: of Hypothesis, like everywhere here.
        content: the file.
        words: pieces that mean something in its format; they are written into it too.
    """
    if once_in(draw, 200):
        return pick(draw, (b"", b"\x00", b"\n", b"{}", b"[]", bytes(range(64))))
    data = bytearray(content)
    for _ in range(draw(FEW)):
        change(draw, data, words)
    return bytes(data)


def change(draw: DrawFn, data: bytearray, words: Sequence[bytes]) -> None:
    """One change: of a bit, a byte, a piece, a number, the beginning or the end."""
    at, gone = draw(WIDE) % (len(data) + 1), 0
    match draw(st.integers(0, 13)):
        case 0 | 1 if at < len(data):
            new, gone = bytes([data[at] ^ 1 << draw(WIDE) % 8]), 1
        case 2:
            new, gone = draw(ODD_BYTE), 1
        case 3:
            new = draw(NOISE)
        case 4:
            new, gone = b"", draw(WIDTH)
        case 5:
            new = data[at : at + draw(WIDTH)] * draw(st.integers(1, 8))
        case 6:
            new, gone = b"", len(data)
        case 7:
            at, new = len(data), draw(NOISE) if draw(st.booleans()) else bytes(draw(WIDTH))
        case 8 | 9:
            at %= 512  # numbers stand in headers
            gone = draw(st.sampled_from((1, 2, 4, 8)))
            number, order = draw(ODD_NUMBER) % 2 ** (8 * gone), pick(draw, ("little", "big"))
            new = number.to_bytes(gone, order)
        case 10:
            gone = draw(WIDTH)
            new = draw(st.sampled_from((b"\x00", b" ", b"\xff"))) * gone
        case 11:
            start, gone = draw(WIDE) % (len(data) + 1), draw(WIDTH)
            new = data[start : start + gone]
        case 12:
            at, new = 0, draw(st.sampled_from(BEGINNINGS))
            gone = len(new)
        case _:
            new = pick(draw, words)
            gone = len(new) * draw(st.booleans())
    data[at : at + gone] = new


# --- JSON and lines ------------------------------------------------------------------------


def parse(text: str) -> Any:
    """JSON with objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def render(value: Any) -> str:
    """The JSON text of a tree of `Pairs`, lists, `Raw` and plain values."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(k)}: {render(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    return json.dumps(value)


def places(tree: Any) -> list[tuple[list[Any], int]]:
    """Every value of a tree: the list that holds it, and where."""
    if not isinstance(tree, list):
        return []
    inner = [item[1] if isinstance(tree, Pairs) else item for item in tree]
    return [(tree, at) for at in range(len(tree))] + [p for item in inner for p in places(item)]


def json_tree(draw: DrawFn, tree: Any) -> str:
    """What `parse` gave, changed in one to four places: values, keys, what is there how often."""
    for _ in range(draw(FEW)):
        spots = places(tree)
        if not spots or once_in(draw, 50):
            return render(draw(ODD_VALUE))
        holder, at = pick(draw, spots)
        key, value = holder[at] if isinstance(holder, Pairs) else (None, holder[at])
        act = draw(st.integers(0, 7))
        if act == 0:
            del holder[at]
            continue
        if act == 1:
            holder.insert(at, pick(draw, holder))
            continue
        if act == 2:  # another value of the tree, as text: it must not hold itself
            other, there = pick(draw, spots)
            new: Any = Raw(render(other[there][1] if isinstance(other, Pairs) else other[there]))
        elif act == 3 and key is not None:
            odd = (key[:-1], key + "s", key.upper(), "", "../" + key, key + "\x00", "__class__")
            key, new = pick(draw, odd), value
        else:
            new = odd_value(draw, value)
        if key is not None and once_in(draw, 8):
            holder.append((key, new))  # the key a second time
        else:
            holder[at] = new if key is None else (key, new)
    return render(tree)


def odd_value(draw: DrawFn, value: Any) -> Any:
    """Another value in the place of one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or draw(st.booleans()):
        return draw(ODD_VALUE)
    near = (-value, value + 1, value * 2**32, value // 3, str(value), [value], value - 1)
    return pick(draw, near)


def json_file(draw: DrawFn, content: bytes) -> bytes:
    """A JSON file damaged as a tree, or, once in three times, as bytes."""
    try:
        tree = parse(content.decode())
    except (ValueError, RecursionError):  # damaged before
        return octets(draw, content)
    return octets(draw, content) if once_in(draw, 3) else json_tree(draw, tree).encode()


def lines(draw: DrawFn, content: bytes, one: Callable[[DrawFn, bytes], bytes]) -> bytes:
    """A file of lines: one is damaged, left out, doubled, moved, or cut in the middle."""
    rows = content.split(b"\n")
    for _ in range(draw(FEW)):
        at, act = draw(WIDE) % len(rows), draw(st.integers(0, 5))
        if act == 0 and len(rows) > 1:
            del rows[at]
        elif act == 1:
            rows.insert(draw(WIDE) % len(rows), rows[at])
        elif act == 2:
            rows[at] = rows[at][: draw(WIDE) % (len(rows[at]) + 1)]
        elif rows[at].strip():
            rows[at] = one(draw, rows[at])
    return b"\n".join(rows)


# --- folders -------------------------------------------------------------------------------


def rearrange(draw: DrawFn, tree: Tree) -> Tree:
    """A folder with a file that is gone, exchanged with another, or no plain file any more."""
    name, other = (pick(draw, sorted(tree)) for _ in range(2))
    above, _, last = name.rpartition("/")
    outside = Link("../" * name.count("/") + f"{OUTSIDE}/kept")
    files = dict(tree)
    match draw(st.integers(0, 7)):
        case 0:
            del files[name]
        case 1:
            files[name], files[other] = tree[other], tree[name]
        case 2:
            files[name] = Pipe()
        case 3:
            files[name] = Folder()
        case 4:
            files[name] = Link(pick(draw, ("/dev/zero", "/dev/null", last, "nowhere")))
        case 5:
            files[name] = outside
        case 6 if above:  # a whole folder is a link
            top = name.partition("/")[0]
            files = {path: entry for path, entry in tree.items() if not path.startswith(f"{top}/")}
            files[top] = Link(pick(draw, (OUTSIDE, "/dev", ".", "nowhere")))
        case _:  # what another writer left
            half = f"{above}/.{last}.partial".lstrip("/")
            files[half] = pick(draw, (outside, b"half", Folder()))
    return files
