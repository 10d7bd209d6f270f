"""How a case ended."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        kind: `refused`, `accepted`, or what is wrong with it: `crash`, `silent`, `slow`, `memory`,
            `escape`, `line`, `dead`.
        text: the error line, or what happened.
        trace: of a crash.
        peak: the most bytes that the process had meanwhile.
    """

    kind: str
    text: str = ""
    trace: str = ""
    peak: int = field(default=0, compare=False)

    @property
    def bad(self) -> bool:
        """Whether it is a finding."""
        return self.kind not in ("refused", "accepted")
