"""The only training loop, readable from top to bottom, the same for every backend.

It trains models of one shape in lock-step: a single one, or the members of a population. Each is a
run of its own, with a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fwt.fwcore.errors import DivergedError
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import Data
from fwt.fwcore.training.group import Group, Hooks
from fwt.fwcore.training.lockstep import Alone, Lockstep, Spread, Trainable
from fwt.fwcore.training.member import Member
from fwt.fwcore.training.ranks import SINGLE, Ranks, check_together, gather

Result = dict[str, Any] | DivergedError | None  # how it failed; None: stopped before its end


def train_together(
    models: Lockstep,
    specs: Sequence[RunSpec],
    data: Data,
    folders: Sequence[RunFolder],
    hooks: Hooks | None = None,
    stop_after: int | None = None,
    ranks: Ranks = SINGLE,
) -> list[Result]:
    """Train models of one shape in lock-step, each as `train` would train it alone.

    Args:
        models: P of them.
        specs: their runs; they differ in seed, learning rate and what the models were made for.
        data: see `train`.
        folders: their folders, which stand at one step.
        hooks: see `train`.
        stop_after: see `train`.
        ranks: the processes that do this together; of several there is one model.

    Returns:
        For each model what `train` would return, or the error that it would raise if it diverged.

    Raises:
        Interrupted: a signal came; all runs were saved.
        FileError: something could not be written.
    """
    runs = Group(models, specs, data, folders, hooks or Hooks(), ranks)
    if runs.step == 0:
        runs.save_new()  # so that there is always a good checkpoint to go back to
    first = runs.step
    while runs.step < runs.total and runs.alive():
        runs.update()
        if runs.due(runs.report.log_every):
            runs.log()
        validated = runs.due(runs.eval_every)
        if validated:
            runs.validate()
        if runs.due(runs.save_every):
            runs.save(lambda run: True)
        elif validated:
            runs.save(Member.is_best)
        runs.stop_if_asked()
        if stop_after is not None and runs.step - first >= stop_after:
            runs.save_new()
            break
    if runs.step >= runs.total:
        runs.finish()
    return [run.error or run.result for run in runs.runs]


def _stop_together(hooks: Hooks, ranks: Ranks) -> Hooks:
    """Hooks that stop all ranks at the same update, whichever was sent the signal."""

    def stop_signal() -> int | None:
        return int(gather(ranks, hooks.stop_signal() or 0).max()) or None

    return replace(hooks, stop_signal=stop_signal)


def train(
    model: Trainable,
    spec: RunSpec,
    data: Data,
    folder: RunFolder,
    hooks: Hooks | None = None,
    stop_after: int | None = None,
    ranks: Ranks = SINGLE,
) -> dict[str, Any] | None:
    """Train a model, or go on where its run folder stopped.

    Args:
        model: compiled from `spec.model`; its weights are replaced if the folder has a checkpoint.
        spec: the whole run.
        data: the task's splits; `test` is touched once, after the last update.
        folder: the run's folder; metrics and checkpoints go there.
        hooks: what to call while running.
        stop_after: stop, saved, after this many updates of this call; None goes to the end.
        ranks: the processes that do this together, each with the same arguments but its own
            `ranks`; the first alone writes in `folder`.

    Returns:
        The final result (test error of the checkpoint that was best on the validation split), or
        None if `stop_after` stopped the run before its end.

    Raises:
        ConfigError: the ranks cannot train this together.
        RankLostError: another rank is gone.
        DivergedError: a loss is not finite; the last good checkpoint stays.
        Interrupted: a signal came; the run was saved.
        FileError: something could not be written.
    """
    models: Lockstep = Alone(model)
    hooks = hooks or Hooks()
    check_together(ranks, spec)
    if ranks.count > 1:
        models, hooks = Spread(model, ranks), _stop_together(hooks, ranks)
    (result,) = train_together(models, [spec], data, [folder], hooks, stop_after, ranks)
    if isinstance(result, DivergedError):
        raise result
    return result
