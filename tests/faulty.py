"""A function of the system that fails once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Faulty:
    """A function that fails in its `count`-th call with an OSError, having done its work or not."""

    def __init__(self, real: Callable[..., Any], count: int, after: bool) -> None:
        self.real, self.count, self.after, self.calls = real, count, after, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls != self.count:
            return self.real(*arguments, **named)
        if self.after:
            self.real(*arguments, **named)
        raise OSError(28, "No space left on device")
