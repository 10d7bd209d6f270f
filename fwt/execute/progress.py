"""What a person sees while a sweep goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fwt.execute.executor import BEGIN, WAIT
from fwt.jobs import Job, Outcome

ROWS = 20  # runs shown at once: those that go on, then the latest that ended
REFRESH = 4  # times a second


class Row:
    """One batch in the table."""

    def __init__(self, label: str) -> None:
        self.label, self.step, self.error = label, 0, ""
        self.begun, self.attempt, self.state = time.monotonic(), 0, "running"


class Progress:
    """Shows how the runs of a sweep stand; a context manager, and a `Watch`.

    Args:
        total: how many runs there will be.
        stop: returns the number of a signal that asks to stop, or None.
        quiet: show nothing.
    """

    def __init__(self, total: int, stop: Callable[[], int | None], quiet: bool) -> None:
        self._total, self._stop, self._quiet = total, stop, quiet
        self._rows: dict[Path, Row] = {}
        self._done = self._reused = self._failed = 0
        # without a terminal there is no table, whatever the environment says of colours
        console = Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
        self._live: Live | None = None
        if not quiet and console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console, get_renderable=self._render, refresh_per_second=REFRESH
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def opened(self, text: str) -> None:
        self._say(f"scheduler {text}")

    def lost(self, text: str) -> None:
        self._say(f"lost      {text}")

    def stop(self) -> int | None:
        return self._stop()

    def report(self, jobs: Sequence[Job], line: dict[str, Any]) -> None:
        name = jobs[0].label + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else "")
        row = self._rows.setdefault(jobs[0].folder, Row(name))
        row.step = line["step"] or row.step
        if line["split"] == BEGIN:
            row.attempt += 1
            again = f", attempt {row.attempt}" if row.attempt > 1 else ""
            self._say(f"begun     {name}{again}", lines_only=row.attempt == 1)
        elif line["split"] == WAIT:
            self._say(f"waiting   {name}: another process has it")
        elif line["split"] == "val":
            row.error = f"{line['error_pct']:.2f}%"

    def ended(self, outcome: Outcome) -> None:
        name = outcome.job.label
        row = self._rows.setdefault(outcome.job.folder, Row(name))
        row.label = name
        self._done += 1
        self._reused += outcome.reused
        count = f"{self._done:>4}/{self._total}"
        if outcome.result is None:
            self._failed += 1
            row.state = "failed"
            why = outcome.failure.text if outcome.failure else ""
            self._say(f"failed    {count}  {name}  {why}")
            return
        row.state = "there already" if outcome.reused else "done"
        row.step = outcome.result["steps"]
        row.error = f"{outcome.result['val']['error_pct']:.2f}%"
        text = (
            f"{'reused' if outcome.reused else 'done':<8}  {count}  {name}  val error {row.error}"
        )
        self._say(text, lines_only=True)

    def _say(self, text: str, lines_only: bool = False) -> None:
        """A line on stderr; on a terminal above the table, unless the table says it."""
        if self._quiet:
            return
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        elif not lines_only:
            self._live.console.print(Text(text))

    def _render(self) -> Group:
        table = Table("run", "state", "step", "val error", "time", box=None, pad_edge=False)
        running = [row for row in self._rows.values() if row.state == "running"]
        ended = [row for row in self._rows.values() if row.state != "running"]
        room = max(0, ROWS - len(running))
        for row in [*ended[len(ended) - min(room, len(ended)) :], *running[:ROWS]]:
            seconds = f"{time.monotonic() - row.begun:.0f} s" if row.state == "running" else ""
            table.add_row(Text(row.label), row.state, str(row.step), row.error, seconds)
        left = self._total - self._done - len(running)
        text = (
            f"{self._done} of {self._total} runs ended, {self._reused} of them before; "
            f"{self._failed} failed, {len(running)} running, {left} waiting"
        )
        return Group(table, Text(text))
