"""Lists of numbers on the command line, and the combinations that they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from fwt.fwcore.errors import ConfigError

AXES = ("train.seed", "train.lr", "model.core.decay", "model.core.rate")  # where a list may stand
MOST = 1000  # runs at once: each keeps a file open, and a range may be typed wrong

RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")


# 0,5 and 1,5e-3: what may be meant as one number, with a decimal comma
DECIMAL_COMMA = re.compile(r"(?:^|,)\s*(0,\d+|\d+,\d+e[+-]?\d+)\s*(?:,|$)", re.IGNORECASE)


def numbers(flag: str, text: str) -> float | list[float]:
    """`1e-3` as a number, `1e-3,2e-3` as a list of them.

    Raises:
        ConfigError: naming the flag; also for what may be a decimal comma.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{flag}: expected a number, or numbers separated by commas, got {text!r}; "
            f"e.g. {flag} 0.001,0.002"
        ) from None
    if unclear := DECIMAL_COMMA.search(text):
        first, second = unclear[1].split(",")
        raise ConfigError(
            f"{flag}: expected a number with a point or a list, got {text!r}; for one number write "
            f"{first}.{second}, for two {first}.0,{second}"
        )
    return found if len(found) > 1 else found[0]


def whole_numbers(flag: str, text: str) -> int | list[int]:
    """`3` as a number; `0-15`, `0,3,7` and mixes of both as a list of them.

    Raises:
        ConfigError: naming the flag.
    """
    found: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(
                f"{flag}: expected whole numbers and ranges separated by commas, got {part!r} in "
                f"{text!r}; e.g. {flag} 0-15 or {flag} 0,3,7"
            )
        _check_count(flag, len(found) + last - first + 1)
        found += range(first, last + 1)
    return found if len(found) > 1 else found[0]


def seeds_of(flag: str, text: str) -> list[int]:
    """Seeds such as `0-2` or `0,3` as numbers, one of them too. Raises ConfigError."""
    seeds = whole_numbers(flag, text)
    return seeds if isinstance(seeds, list) else [seeds]


# flags whose text may be a list
PARSERS: dict[str, Callable[[str, str], Any]] = {
    "seeds": whole_numbers,
    "lr": numbers,
    "decay": numbers,
    "rate": numbers,
}


def _check_count(where: str, count: int) -> None:
    if count > MOST:
        raise ConfigError(f"{where}: expected at most {MOST} runs at once, got {count}")


def points(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the lists in settings, by dotted key; one without a key if none is.

    Raises:
        ConfigError: there are too many.
    """
    lists = {path: value for path in AXES if isinstance(value := _at(settings, path), list)}
    lists = {path: value for path, value in lists.items() if value}
    _check_count(" x ".join(lists), math.prod(map(len, lists.values())))
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def _at(settings: Mapping[str, Any], path: str) -> Any:
    """The value under a dotted key, or None."""
    value: Any = settings
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
