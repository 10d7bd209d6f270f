"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


def line_of(metrics: dict[str, Any]) -> str:
    """One line of metrics as text."""
    text = (
        f"step {metrics['step']:>6}  {metrics['split']:<5}  loss {metrics['loss']:.4f}  "
        f"error {metrics['error_pct']:6.2f}%"
    )
    if "examples_per_s" in metrics:
        text += f"  {metrics['examples_per_s']:,.0f} examples/s"
    return text


class Screen:
    """Shows a run's metrics; a context manager.

    Args:
        total: updates of the whole run.
        quiet: show nothing.
        done: updates made before this call, of a run that goes on.
    """

    def __init__(self, total: int, quiet: bool, done: int = 0) -> None:
        self._total, self._quiet, self._done = total, quiet, done
        self._began = time.monotonic()
        # without a terminal there is no bar, whatever the environment says of colours
        console = Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if not quiet and console.is_terminal and not console.is_dumb_terminal:
            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TextColumn("{task.fields[left]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("starting", total=total, completed=done, left="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _left(self, step: int) -> str:
        """How long the rest takes at the pace so far."""
        pace = (time.monotonic() - self._began) / max(step - self._done, 1)
        return f"{timedelta(seconds=round(pace * (self._total - step)))} left"

    def show(self, metrics: dict[str, Any]) -> None:
        """One line of metrics: the bar's text for training, a line of its own for the rest."""
        if self._quiet:
            return
        line, train = line_of(metrics), metrics["split"] == "train"
        left = self._left(metrics["step"])
        if self._bar is None:
            print(f"{line}  {left}" if train else line, file=sys.stderr, flush=True)
        elif train:
            text = line.split("train", 1)[1].strip()
            self._bar.update(self._task, completed=metrics["step"], description=text, left=left)
        else:
            self._bar.console.print(line, highlight=False)
