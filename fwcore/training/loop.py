"""The only training loop, readable from top to bottom, the same for every backend.

It trains models of one shape in lock-step: a single one, or the members of a population. Each is a
run of its own, with a folder of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fwt.fwcore import layers, params
from fwt.fwcore.errors import CheckpointError, ConfigError, DivergedError, Interrupted
from fwt.fwcore.inputs import OWN
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.paths import quote
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.checkpoint import Best
from fwt.fwcore.storage.runs import RunFolder, Weighted
from fwt.fwcore.training import batches
from fwt.fwcore.training.batches import BatchOrder, Dropout, Split
from fwt.fwcore.training.lockstep import Alone, Lockstep, Trainable
from fwt.fwcore.training.ranks import SINGLE, Ranks, Spread, check_together, everyones, folder_on
from fwt.fwcore.training.schedule import learning_rate

Outcome = dict[str, Any] | DivergedError | None  # result; how it failed; stopped before its end
T = TypeVar("T")

EVALUATION_BATCH = 1000  # examples at once; bounds memory, does not change the result


def check_fit(
    table: Sequence[Param], arrays: Mapping[str, NumpyArray], where: str
) -> dict[str, NumpyArray]:
    """Arrays that are exactly those of a parameter table, contiguous.

    Raises:
        CheckpointError: naming every missing, extra, mis-shaped or mis-typed array.
    """
    faults = params.mismatches(table, arrays)
    if faults:
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(faults)}")
    return {name: np.require(array, requirements=OWN) for name, array in arrays.items()}


def as_parameters(
    table: Sequence[Param], arrays: Mapping[str, NumpyArray], dtype: str
) -> dict[str, NumpyArray]:
    """Arrays that fit a table, in the type in which weights are kept for a number type.

    Raises:
        CheckpointError: they do not fit.
    """
    check_fit(table, arrays, "compile")
    kind = np.float64 if dtype == "float64" else np.float32
    return {param.name: arrays[param.name].astype(kind) for param in table}


@dataclass(frozen=True)
class Data:
    """The three splits of a task."""

    train: Split
    val: Split
    test: Split


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


def measure(model: Trainable, split: Split) -> dict[str, float]:
    """Mean loss (nats), error (percent) and size of a split.

    Raises:
        ConfigError: the split is empty.
        DivergedError: the loss is not finite.
    """
    found = _measured(Alone(model), split)[0]
    if not np.isfinite(found["loss"]):
        raise DivergedError(
            f"evaluate: expected a finite loss, got loss={found['loss']}; these weights overflow "
            "on these examples; take a checkpoint of an earlier step"
        )
    return found


def _measured(
    models: Lockstep, split: Split, before_batch: Callable[[], None] = lambda: None
) -> list[dict[str, float]]:
    """What `measure` gives, of each model."""
    count, members = len(split), len(models.members)
    if not count:
        raise ConfigError("evaluate: expected at least one example, got examples=0")
    sums, batch = np.zeros((members, 2)), max(1, EVALUATION_BATCH // members)
    for first in range(0, count, batch):
        before_batch()
        rows = slice(first, first + batch)
        # NumPy would warn of each product that overflows; the loss is then no number, which is told
        with np.errstate(over="ignore", invalid="ignore"):
            sums += models.evaluate(split.inputs[rows], split.targets[rows])
    return [
        {"loss": loss / count, "error_pct": 100 * wrong / count, "examples": count}
        for loss, wrong in sums.tolist()
    ]


class Batch(NamedTuple):
    """What an update depends on; all of it is a function of the run's seed and the step.

    Attributes:
        rows: which examples of the training split, int64 (B,).
        lr: the learning rate.
        dropout: masks, or None.
    """

    rows: NumpyArray
    lr: float
    dropout: Dropout | None


def _stacked(given: Sequence[Batch]) -> tuple[NumpyArray, NumpyArray, Dropout | None]:
    """The batches of P runs as arguments of `Lockstep.train_step`."""
    rows, lrs = np.stack([batch.rows for batch in given]), np.array([batch.lr for batch in given])
    masks = [batch.dropout for batch in given if batch.dropout is not None]
    if not masks:
        return rows, lrs, None
    places = zip(*masks, strict=True)
    return rows, lrs, Dropout(*(None if m[0] is None else np.stack(m) for m in places))


class _Run:
    """One run: its position, its metrics and its checkpoints."""

    def __init__(
        self, number: int, model: Weighted, spec: RunSpec, examples: int, folder: RunFolder
    ) -> None:
        self.number, self.model, self.spec, self.folder = number, model, spec, folder
        train = spec.train
        self.order = BatchOrder(train.seed, examples, train.batch_size)
        self.examples, self.total = examples, train.total_steps(examples)
        self.sizes = (layers.encoder_outputs(spec.model.encoder), spec.model.core.size)
        self.at = folder.restore(model)
        self.result: dict[str, Any] | None = None
        self.error: DivergedError | None = None

    def batch(self) -> Batch:
        """What the next update depends on."""
        train, step = self.spec.train, self.at.step
        masks = batches.dropout(
            train.seed, step, (train.dropout, train.head_dropout), train.batch_size, self.sizes
        )
        return Batch(self.order.rows(step), self.rate(step), masks)

    def rate(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        train = self.spec.train
        return learning_rate(train, step, train.total_steps(self.examples, step))

    def record(self, rows: NumpyArray, seconds: float) -> None:
        """Take the statistics (n, 3) of the last n updates, and the time they took.

        Raises:
            DivergedError: a loss or a gradient norm is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            step = self.at.step - len(rows) + 1 + bad[0]
            self.diverged(f"loss={rows[bad[0], 0]}, grad_norm={rows[bad[0], 2]} at step {step}")
        self.at.unreported += rows.tolist()
        self.at.elapsed_s += seconds

    def diverged(self, what: str) -> None:
        """Raise DivergedError with what was seen and what is safe."""
        raise DivergedError(
            f"train: expected finite numbers, got {what}; the last good checkpoint is "
            f"{self.folder.latest()}; try a smaller --lr, --clip 1, or --norm sum"
        )

    def check_weights(self) -> None:
        """Raise DivergedError if a weight is not finite: no loss need have met it yet."""
        bad = params.not_finite(self.model.parameters())
        if bad:
            self.diverged(f"NaN or infinity in {bad[0]} at step {self.at.step}")

    def tell(self, split: str, values: Mapping[str, float]) -> dict[str, Any]:
        """Write one line of metrics, and return it."""
        line = {"step": self.at.step, "split": split, **values}
        line["elapsed_s"] = round(self.at.elapsed_s, 3)
        line["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.folder.append_metrics(line)
        return line

    def log(self) -> dict[str, Any]:
        """Training metrics: means over the updates since the last such line."""
        rows = np.asarray(self.at.unreported)
        loss, wrong, norm = rows.mean(axis=0)
        seconds = self.at.elapsed_s - self.at.reported_s
        batch = self.spec.train.batch_size
        self.at.unreported, self.at.reported_s = [], self.at.elapsed_s
        return self.tell(
            "train",
            {
                "loss": loss,
                "error_pct": 100 * wrong / batch,
                "grad_norm": norm,
                "lr": self.rate(self.at.step - 1),
                "examples_per_s": round(len(rows) * batch / max(seconds, 1e-9), 1),
            },
        )

    def judge(self, found: Mapping[str, float]) -> dict[str, Any]:
        """Validation metrics; a lower error (then a lower loss) makes this step the best."""
        if not np.isfinite(found["loss"]):
            self.diverged(f"validation loss={found['loss']} at step {self.at.step}")
        line = self.tell("val", found)
        new = Best(step=self.at.step, error_pct=found["error_pct"], loss=found["loss"])
        if self.at.best is None or new.rank() < self.at.best.rank():
            self.at.best = new
        return line

    def is_best(self) -> bool:
        """Whether this very step is the best so far."""
        return self.at.best is not None and self.at.best.step == self.at.step

    def save(self) -> None:
        """A checkpoint of this step; all of its updates must have been recorded."""
        self.folder.save(self.model, self.spec, self.at)

    def best(self) -> Best:
        """The step that was best on the validation split."""
        if self.at.best is None:
            raise DivergedError(f"train: no step of {self.folder.path} was validated")
        return self.at.best

    def load_best(self) -> None:
        """Put the checkpoint that was best on the validation split into the model."""
        self.best()
        self.folder.restore_best(self.model)

    def finish(self, found: dict[str, float]) -> dict[str, Any]:
        """Mark the run as done, with what its best checkpoint was found to be on the test split."""
        best = self.best()
        if not np.isfinite(found["loss"]):
            self.diverged(f"test loss={found['loss']} of the best step {best.step}")
        line = self.tell("test", {**found, "best_step": best.step})
        self.result = {
            "test": found,
            "val": {"loss": best.loss, "error_pct": best.error_pct},
            "best_step": best.step,
            "steps": self.total,
            "train_s": round(self.at.elapsed_s, 1),
        }
        self.folder.finish(self.result)
        return line


class _Loop:
    """Runs in lock-step: one update of all at once, and what each of them reports."""

    def __init__(
        self,
        models: Lockstep,
        specs: Sequence[RunSpec],
        data: Data,
        folders: Sequence[RunFolder],
        hooks: Hooks,
    ) -> None:
        self.models, self.data, self.hooks = models, data, hooks
        models.begin_training([spec.train for spec in specs], data.train)
        given = zip(models.members, specs, folders, strict=True)
        self.runs = [
            _Run(number, model, spec, len(data.train), folder)
            for number, (model, spec, folder) in enumerate(given)
        ]
        self.report, self.total = specs[0].report, self.runs[0].total
        self.ends = specs[0].train.ends(len(data.train))
        self.eval_every = self.report.eval_every or self.runs[0].order.per_epoch
        self.save_every = self.report.save_every or self.eval_every
        self.pending: list[Any] = []  # statistics not yet pulled from the device
        self.clock = time.perf_counter()

    @property
    def step(self) -> int:
        """Updates made."""
        return self.runs[0].at.step

    def alive(self) -> bool:
        """Whether a run is left that has not diverged."""
        return any(run.error is None for run in self.runs)

    def each(self, action: Callable[[_Run], T]) -> list[T]:
        """Do something with every run; one that diverges stops alone."""
        found = []
        for run in self.runs:
            if run.error is None:
                try:
                    found.append(action(run))
                except DivergedError as error:
                    run.error = error
        return found

    def update(self) -> None:
        """One batch of every run; one that diverged keeps its place and is not looked at."""
        self.pending.append(self.models.train_step(*_stacked([run.batch() for run in self.runs])))
        for run in self.runs:
            run.at.step += 1

    def pull(self) -> None:
        """Fetch the statistics of the updates since the last call: the only wait on the device."""
        if not self.pending:
            return
        found = self.models.fetch(self.pending)
        self.pending.clear()
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.each(lambda run: run.record(found[:, run.number], seconds))

    def tell(self, lines: Sequence[dict[str, Any]]) -> None:
        """Show what the runs have just written."""
        if lines:
            self.hooks.on_metrics(_joined(lines))

    def log(self) -> None:
        """Training metrics, of weights that are numbers."""
        self.pull()
        self.each(_Run.check_weights)
        self.tell(self.each(_Run.log))

    def validate(self) -> None:
        """Validation metrics."""
        self.pull()
        if self.alive():
            found = _measured(self.models, self.data.val)
            self.tell(self.each(lambda run: run.judge(found[run.number])))
        self.clock = time.perf_counter()  # evaluation is not training time

    def save(self, wanted: Callable[[_Run], bool]) -> None:
        """A checkpoint of this step of the runs that want one; metrics reach the disk first."""
        self.pull()
        self.each(lambda run: run.save() if wanted(run) else None)
        self.clock = time.perf_counter()

    def save_new(self) -> None:
        """A checkpoint of this step of the runs that have none."""
        self.save(lambda run: run.folder.latest_step() != self.step)

    def due(self, every: int) -> bool:
        """Whether something done every so many updates is due now; at an end it always is."""
        return self.step % every == 0 or self.step in self.ends

    def run(self, stop_after: int | None) -> None:
        """Updates until the end, a stop after so many updates, or a signal."""
        if self.step == 0:
            self.save_new()  # so that there is always a good checkpoint to go back to
        first = self.step
        while self.step < self.total and self.alive():
            self.update()
            if self.due(self.report.log_every):
                self.log()
            validated = self.due(self.eval_every)
            if validated:
                self.validate()
            if self.due(self.save_every):
                self.save(lambda run: True)
            elif validated:
                self.save(_Run.is_best)
            self.stop_if_asked()
            if stop_after is not None and self.step - first >= stop_after:
                self.save_new()
                return

    def stop_if_asked(self) -> None:
        """Save and raise Interrupted if a signal came."""
        number = self.hooks.stop_signal()
        if number is None:
            return
        self.save_new()
        paths = self.each(lambda run: run.folder.path)
        if paths:
            one = len(self.runs) == 1
            saved = str(self.runs[0].folder.latest()) if one else f"{len(paths)} runs"
            raise Interrupted(
                f"train: stopped by signal {number} at step {self.step} of {self.total}; "
                f"saved {saved}; go on with{'' if one else ' each alone, such as'}: "
                f"fwt train --resume {quote(paths[0])}",
                number,
            )

    def finish(self) -> None:
        """Test the checkpoints that were best on the validation split; mark the runs as done."""
        self.each(_Run.load_best)
        if self.alive():
            # all are saved at their last update, so that a signal stops this, too
            found = _measured(self.models, self.data.test, self.stop_if_asked)
            self.tell(self.each(lambda run: run.finish(found[run.number])))


def _joined(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same line of several runs as one: means, and all of their examples a second."""
    joined = dict(lines[0])
    for key in ("loss", "error_pct"):
        joined[key] = sum(line[key] for line in lines) / len(lines)
    if "examples_per_s" in joined:
        joined["examples_per_s"] = sum(line["examples_per_s"] for line in lines)
    return joined


def train_together(
    models: Lockstep,
    specs: Sequence[RunSpec],
    data: Data,
    folders: Sequence[RunFolder],
    hooks: Hooks | None = None,
    stop_after: int | None = None,
) -> list[Outcome]:
    """Train models of one shape in lock-step, each as `train` would train it alone.

    Args:
        models: P of them.
        specs: their runs; they differ in seed, learning rate and what the models were made for.
        data: see `train`.
        folders: their folders, which stand at one step.
        hooks: see `train`.
        stop_after: see `train`.

    Returns:
        For each model what `train` would return, or the error that it would raise if it diverged.

    Raises:
        Interrupted: a signal came; all runs were saved.
        FileError: something could not be written.
    """
    loop = _Loop(models, specs, data, folders, hooks or Hooks())
    loop.run(stop_after)
    if loop.step >= loop.total:
        loop.finish()
    return [run.error or run.result for run in loop.runs]


def _agreed(hooks: Hooks, ranks: Ranks) -> Hooks:
    """Hooks that stop all ranks at the same update, whichever was sent the signal."""

    def stop_signal() -> int | None:
        return int(everyones(ranks, hooks.stop_signal() or 0).max()) or None

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
        models, hooks = Spread(model, ranks), _agreed(hooks, ranks)
    own = folder_on(ranks, folder)
    (outcome,) = train_together(models, [spec], data, [own], hooks, stop_after)
    if isinstance(outcome, DivergedError):
        raise outcome
    return outcome
