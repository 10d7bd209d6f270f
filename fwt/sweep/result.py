"""What a sweep found: every setting with its validation errors, and the best of each group.

Nothing here reads the test split: `Score` takes what it needs of a run's DONE, and no more.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwt.fwcore.storage.durable import make_folder, write_text
from fwt.jobs import Outcome
from fwt.sweep.plan import Group, Setting

OBJECTIVE = "mean over the seeds of the best validation error, percent; then of its loss"


@dataclass(frozen=True)
class Score:
    """What a run is judged by: its best step on the validation split."""

    error_pct: float
    loss: float
    best_step: int
    steps: int
    train_s: float

    @classmethod
    def of(cls, done: dict[str, Any]) -> Score:
        """The score of a run that is done."""
        val = done["val"]
        return cls(val["error_pct"], val["loss"], done["best_step"], done["steps"], done["train_s"])


@dataclass(frozen=True)
class Tried:
    """A setting and how its runs ended, in the order of its seeds."""

    setting: Setting
    outcomes: tuple[Outcome, ...]

    @property
    def scores(self) -> list[Score]:
        """Those of the runs that are done."""
        return [Score.of(each.result) for each in self.outcomes if each.result is not None]

    @property
    def whole(self) -> bool:
        """Whether every run is done; else the setting is not chosen."""
        return all(outcome.result is not None for outcome in self.outcomes)

    @property
    def final(self) -> bool:
        """Whether nothing would change if it was run again: each run is done or diverged."""
        return all(each.result is not None or each.diverged for each in self.outcomes)

    def rank(self) -> tuple[float, float]:
        """Lower is better; a setting that is not whole comes last."""
        if not self.whole:
            return math.inf, math.inf
        scores = self.scores
        return (
            statistics.fmean(score.error_pct for score in scores),
            statistics.fmean(score.loss for score in scores),
        )

    def json_data(self, root: Path) -> dict[str, Any]:
        """For `summary.json`; folders are told from `root`."""
        error, loss = self.rank()
        errors = [score.error_pct for score in self.scores]
        return {
            "settings": self.setting.values,
            "val_error_pct": error if self.whole else None,
            "val_error_sd": statistics.stdev(errors) if len(errors) > 1 else None,
            "val_loss": loss if self.whole else None,
            "runs": [_run(each, root) for each in self.outcomes],
        }


def _run(outcome: Outcome, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "seed": outcome.job.spec.train.seed,
        "run": str(outcome.job.folder.relative_to(root)),
        "failure": outcome.failure and outcome.failure.text,
    }
    if outcome.result is not None:
        score = Score.of(outcome.result)
        found |= {
            "val_error_pct": score.error_pct,
            "val_loss": score.loss,
            "best_step": score.best_step,
            "steps": score.steps,
            "train_s": score.train_s,
        }
    return found


def best(tried: Sequence[Tried]) -> Tried | None:
    """The setting with the lowest validation error; None if every one failed."""
    whole = [each for each in tried if each.whole]
    return min(whole, key=Tried.rank, default=None)


def of_group(
    group: Group, tried: Sequence[Tried], command: str | None, root: Path
) -> dict[str, Any]:
    """A group in `summary.json`: its settings, the best first, and the one that is chosen."""
    chosen = best(tried)
    ordered = sorted(tried, key=Tried.rank)
    return {
        "label": group.label,
        "model": group.model,
        "fixed": group.fixed,
        "parameters": group.parameters,
        "tried": len(tried),
        "chosen": None if chosen is None else chosen.setting.values,
        "command": command,
        "trials": [each.json_data(root) for each in ordered],
    }


def write(path: Path, data: dict[str, Any]) -> None:
    """A JSON file, whole or not at all, in a folder that need not be there.

    Raises:
        FileError: it cannot be written.
    """
    make_folder(path.parent)
    write_text(path, json.dumps(data, indent=1) + "\n")
