"""Runs of one shape in lock-step: one update of all at once, and what each of them reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fwt.fwcore.errors import DivergedError, Interrupted
from fwt.fwcore.ops import Array
from fwt.fwcore.paths import quote
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import Data
from fwt.fwcore.training.evaluation import measure_all
from fwt.fwcore.training.lockstep import Lockstep
from fwt.fwcore.training.member import Member, stack
from fwt.fwcore.training.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Hooks:
    """What the caller of `train` is told and may ask, all optional.

    Attributes:
        on_metrics: called with every line of metrics as it is written; for a population with the
            means over its members, and all of their examples a second.
        stop_signal: returns the number of a signal that asks the run to stop, or None.
    """

    on_metrics: Callable[[dict[str, Any]], None] = lambda line: None
    stop_signal: Callable[[], int | None] = lambda: None


class Group:
    """Runs in lock-step: one update of all at once, and what each of them reports."""

    def __init__(
        self,
        models: Lockstep,
        specs: Sequence[RunSpec],
        data: Data,
        folders: Sequence[RunFolder],
        hooks: Hooks,
        ranks: Ranks,
    ) -> None:
        self.models, self.data, self.hooks = models, data, hooks
        models.begin_training([spec.train for spec in specs], data.train)
        given = zip(models.members, specs, folders, strict=True)
        self.runs = [
            Member(number, model, spec, len(data.train), folder, ranks)
            for number, (model, spec, folder) in enumerate(given)
        ]
        self.report, self.total = specs[0].report, self.runs[0].total
        self.ends = specs[0].train.ends(len(data.train))
        self.eval_every = self.report.eval_every or self.runs[0].order.per_epoch
        self.save_every = self.report.save_every or self.eval_every
        self.pending: list[Array] = []  # statistics that are still on the device
        self.clock = time.perf_counter()

    @property
    def step(self) -> int:
        """Updates made."""
        return self.runs[0].at.step

    def alive(self) -> bool:
        """Whether a run is left that has not diverged."""
        return any(run.error is None for run in self.runs)

    def each(self, action: Callable[[Member], T]) -> list[T]:
        """Do something with every run; one that diverges stops alone."""
        done = []
        for run in self.runs:
            if run.error is None:
                try:
                    done.append(action(run))
                except DivergedError as error:
                    run.error = error
        return done

    def update(self) -> None:
        """One batch of every run; one that diverged keeps its place and is not looked at."""
        self.pending.append(self.models.train_step(*stack([run.batch() for run in self.runs])))
        for run in self.runs:
            run.at.step += 1

    def fetch(self) -> None:
        """Fetch the statistics of the updates since the last call: the only wait on the device."""
        if not self.pending:
            return
        stats = self.models.fetch(self.pending)
        self.pending.clear()
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.each(lambda run: run.record(stats[:, run.number], seconds))

    def tell(self, lines: Sequence[dict[str, Any]]) -> None:
        """Show what the runs have just written."""
        if lines:
            self.hooks.on_metrics(join_lines(lines))

    def log(self) -> None:
        """Training metrics, of weights that are numbers."""
        self.fetch()
        self.each(Member.check_weights)
        self.tell(self.each(Member.log))

    def validate(self) -> None:
        """Validation metrics."""
        self.fetch()
        if self.alive():
            found = measure_all(self.models, self.data.val)
            self.tell(self.each(lambda run: run.judge(found[run.number])))
        self.clock = time.perf_counter()  # evaluation is not training time

    def save(self, wanted: Callable[[Member], bool]) -> None:
        """A checkpoint of this step of the runs that want one; metrics reach the disk first."""
        self.fetch()
        self.each(lambda run: run.save() if wanted(run) else None)
        self.clock = time.perf_counter()

    def save_new(self) -> None:
        """A checkpoint of this step of the runs that have none."""
        self.save(lambda run: run.saved != self.step)

    def due(self, every: int) -> bool:
        """Whether something done every so many updates is due now; at an end it always is."""
        return self.step % every == 0 or self.step in self.ends

    def stop_if_asked(self) -> None:
        """Save and raise Interrupted if a signal came."""
        number = self.hooks.stop_signal()
        if number is None:
            return
        self.save_new()
        paths = self.each(lambda run: run.folder.path)
        if paths:
            one = len(self.runs) == 1
            saved = str(self.runs[0].last_checkpoint()) if one else f"{len(paths)} runs"
            raise Interrupted(
                f"train: stopped by signal {number} at step {self.step} of {self.total}; "
                f"saved {saved}; go on with{'' if one else ' each alone, such as'}: "
                f"fwt train --resume {quote(paths[0])}",
                number,
            )

    def finish(self) -> None:
        """Test the checkpoints that were best on the validation split; mark the runs as done."""
        self.each(Member.load_best)
        if self.alive():
            # all are saved at their last update, so that a signal stops this, too
            found = measure_all(self.models, self.data.test, self.stop_if_asked)
            self.tell(self.each(lambda run: run.finish(found[run.number])))


def join_lines(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same line of several runs as one: means, and all of their examples a second."""
    joined = dict(lines[0])
    for key in ("loss", "error_pct"):
        joined[key] = sum(line[key] for line in lines) / len(lines)
    if "examples_per_s" in joined:
        joined["examples_per_s"] = sum(line["examples_per_s"] for line in lines)
    return joined
