"""Damage to bytes and to JSON: what a bad disk, a bad tool or a bad person makes of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tools.fuzz.dice import Dice

MOST_CHANGES = 4  # to one file
DEEP = 100_000  # levels of a nested file
ODD_NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
PICKLE = b"\x80\x04"  # how a pickle begins
ZIP = b"PK\x03\x04"


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


def parsed(text: str) -> Any:
    """JSON with objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def rendered(value: Any) -> str:
    """The JSON text of a tree of `Pairs`, lists, `Raw` and plain values."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(k)}: {rendered(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(rendered, value)) + "]"
    return json.dumps(value)


def _places(tree: Any) -> list[tuple[list[Any], int]]:
    """Every value of a tree: the list that holds it, and where."""
    found: list[tuple[list[Any], int]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            for at, item in enumerate(node):
                found.append((node, at))
                waiting.append(item[1] if isinstance(node, Pairs) else item)
    return found


def json_tree(dice: Dice, tree: Any) -> Any:
    """Change a tree of `parsed` in one to four places; the tree given is changed too."""
    for _ in range(1 + dice.below(MOST_CHANGES)):
        places = _places(tree)
        if not places or dice.one_in(50):
            return dice.pick(ODD_VALUES)
        holder, at = dice.pick(places)
        keyed = isinstance(holder, Pairs)
        value = holder[at][1] if keyed else holder[at]
        act = dice.below(8)
        if act == 0:
            del holder[at]
        elif act == 1:
            holder.insert(at, holder[dice.below(len(holder))])
        elif act == 2 and keyed:
            holder.append((holder[at][0], _odd(dice, value)))  # the key a second time
        elif act == 3 and keyed:
            holder[at] = (_odd_key(dice, holder[at][0]), value)
        elif act == 4:
            other, where = dice.pick(places)
            if where < len(other):
                given = other[where][1] if isinstance(other, Pairs) else other[where]
                text = Raw(rendered(given))  # a copy: a tree must not hold itself
                holder[at] = (holder[at][0], text) if keyed else text
        else:
            new = _odd(dice, value)
            holder[at] = (holder[at][0], new) if keyed else new
    return tree


def _odd(dice: Dice, value: Any) -> Any:
    """Another value in the place of one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or dice.one_in(2):
        return dice.pick(ODD_VALUES)
    return dice.pick((-value, value + 1, value * 2**32, value // 3, str(value), [value], value - 1))


def _odd_key(dice: Dice, key: str) -> str:
    return dice.pick((key[:-1], key + "s", key.upper(), "", "../" + key, key + "\x00", "__class__"))


def json_text(dice: Dice, content: bytes) -> bytes:
    """A JSON file damaged as a tree, or, once in three times, as bytes."""
    try:
        tree = parsed(content.decode())
    except (ValueError, RecursionError):  # damaged before
        return octets(dice, content)
    return octets(dice, content) if dice.one_in(3) else rendered(json_tree(dice, tree)).encode()


def lines(dice: Dice, content: bytes, one: Callable[[Dice, bytes], bytes]) -> bytes:
    """A file of lines: one is damaged, left out, doubled, moved, or cut in the middle."""
    rows = content.split(b"\n")
    for _ in range(1 + dice.below(MOST_CHANGES)):
        at, act = dice.below(len(rows)), dice.below(6)
        if act == 0 and len(rows) > 1:
            del rows[at]
        elif act == 1:
            rows.insert(dice.below(len(rows)), rows[at])
        elif act == 2:
            rows[at] = rows[at][: dice.below(len(rows[at]) + 1)]
        elif rows[at].strip():
            rows[at] = one(dice, rows[at])
    return b"\n".join(rows)


# --- bytes ---------------------------------------------------------------------------------


def _flip(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    if data:
        data[dice.below(len(data))] ^= 1 << dice.below(8)


def _set(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    if data:
        data[dice.below(len(data))] = dice.pick((0, 1, 9, 10, 32, 34, 46, 47, 92, 127, 128, 255))


def _insert(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    at = dice.below(len(data) + 1)
    data[at:at] = dice.octets(1 + dice.below(16))


def _remove(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    at = dice.below(len(data) + 1)
    del data[at : at + 1 + dice.below(64)]


def _repeat(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    at = dice.below(len(data) + 1)
    data[at:at] = data[at : at + 1 + dice.below(64)] * (1 + dice.below(8))


def _cut(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    del data[dice.below(len(data) + 1) :]


def _append(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    data += dice.octets(1 + dice.below(16)) if dice.one_in(2) else bytes(1 + dice.below(64))


def _number(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    width = dice.pick((1, 2, 4, 8))
    number = dice.pick(ODD_NUMBERS) % 2 ** (8 * width)
    at = dice.below(min(len(data), 512) + 1)  # numbers stand in headers
    data[at : at + width] = number.to_bytes(width, dice.pick(("little", "big")))


def _blank(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    at = dice.below(len(data) + 1)
    data[at : at + 64] = bytes([dice.pick((0, 32, 255))]) * len(data[at : at + 64])


def _move(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    size = 1 + dice.below(32)
    start, to = dice.below(len(data) + 1), dice.below(len(data) + 1)
    data[to : to + size] = data[start : start + size]


def _word(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    at, word = dice.below(len(data) + 1), dice.pick(words)
    data[at : at + (len(word) if dice.one_in(2) else 0)] = word


def _begin(dice: Dice, data: bytearray, words: Sequence[bytes]) -> None:
    start = dice.pick((PICKLE, ZIP, b"\x1f\x8b\x08", b"\x93NUMPY", b"\x89PNG", b"\xef\xbb\xbf"))
    data[: len(start)] = start


CHANGES = (_flip, _flip, _set, _insert, _remove, _repeat, _cut, _append, _number, _number, _blank,
           _move, _word, _begin)  # fmt: skip


def octets(dice: Dice, content: bytes, words: Sequence[bytes] = (b'"', b"\x00")) -> bytes:
    """Bytes with one to four changes.

    Args:
        content: the file.
        words: pieces that mean something in its format; they are written into it too.
    """
    if dice.one_in(200):
        return dice.pick((b"", b"\x00", b"\n", b"{}", b"[]", dice.octets(64)))
    data = bytearray(content)
    for _ in range(1 + dice.below(MOST_CHANGES)):
        dice.pick(CHANGES)(dice, data, words)
    return bytes(data)
