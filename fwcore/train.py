"""The only training loop, readable from top to bottom, the same for every backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from fwcore import batches, layers, params
from fwcore.batches import BatchOrder, Dropout, Split
from fwcore.checkpoint import Best, Progress
from fwcore.errors import CheckpointError, DivergedError, Interrupted
from fwcore.params import Param
from fwcore.runs import RunFolder
from fwcore.schedule import learning_rate
from fwcore.spec import RunSpec, TrainSpec

Array = np.ndarray[Any, np.dtype[Any]]

EVALUATION_BATCH = 1000  # examples at once; bounds memory, does not change the result


class Trainable(Protocol):
    """What the loop asks of a model; `backends.contract.Compiled` adds the rest."""

    def parameters(self) -> dict[str, Array]:
        """All weights by canonical name, canonical axes, in float32 or float64."""
        ...

    def load_parameters(self, params: Mapping[str, Array]) -> None:
        """Replace all weights.

        Raises:
            CheckpointError: a name, shape or type does not fit; every difference is named.
        """
        ...

    def begin_training(self, train: TrainSpec, data: Split) -> None:
        """Set up the optimiser with zero moments, and put the training split on the device."""
        ...

    def train_step(self, rows: Array, lr: float, dropout: Dropout | None) -> Any:
        """One update.

        Args:
            rows: which examples of the training split, int64 (B,).
            lr: the learning rate of this update.
            dropout: masks, or None.

        Returns:
            Mean loss (nats), wrong answers (count) and global gradient norm before clipping, as
            one array (3,) of the framework that need not have been computed yet.
        """
        ...

    def fetch(self, stats: Sequence[Any]) -> Array:
        """What `train_step` returned, n of them, as float64 (n, 3)."""
        ...

    def evaluate(self, inputs: Array, targets: Array) -> tuple[float, int]:
        """Sum of the losses (nats) and number of wrong answers of a batch."""
        ...

    def optimizer_state(self) -> dict[str, Array]:
        """Adam's moments as `m.<name>` and `v.<name>`, canonical axes."""
        ...

    def load_optimizer_state(self, moments: Mapping[str, Array], step: int) -> None:
        """Replace the moments; `step` updates were made so far."""
        ...


def check_fit(table: Sequence[Param], arrays: Mapping[str, Array], where: str) -> None:
    """Refuse arrays that are not exactly those of a parameter table.

    Raises:
        CheckpointError: naming every missing, extra, mis-shaped or mis-typed array.
    """
    faults = params.mismatches(table, arrays)
    if faults:
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(faults)}")


def as_parameters(
    table: Sequence[Param], arrays: Mapping[str, Array], dtype: str
) -> dict[str, Array]:
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
        on_metrics: called with every line of metrics as it is written.
        stop_signal: returns the number of a signal that asks the run to stop, or None.
    """

    on_metrics: Callable[[dict[str, Any]], None] = lambda line: None
    stop_signal: Callable[[], int | None] = lambda: None


def measure(model: Trainable, split: Split) -> dict[str, float]:
    """Mean loss (nats), error (percent) and size of a split."""
    loss, wrong = 0.0, 0
    for first in range(0, len(split), EVALUATION_BATCH):
        rows = slice(first, first + EVALUATION_BATCH)
        part_loss, part_wrong = model.evaluate(split.inputs[rows], split.targets[rows])
        loss, wrong = loss + part_loss, wrong + part_wrong
    count = len(split)
    return {"loss": loss / count, "error_pct": 100 * wrong / count, "examples": count}


class _Loop:
    """One call of `train`: the run's position, its metrics and its checkpoints."""

    def __init__(
        self, model: Trainable, spec: RunSpec, data: Data, folder: RunFolder, hooks: Hooks
    ) -> None:
        self.model, self.spec, self.data = model, spec, data
        self.folder, self.hooks = folder, hooks
        train = spec.train
        self.order = BatchOrder(train.seed, len(data.train), train.batch_size)
        self.total = train.total_steps(len(data.train))
        self.sizes = (layers.encoder_outputs(spec.model.encoder), spec.model.core.size)
        self.eval_every = spec.report.eval_every or self.order.per_epoch
        self.save_every = spec.report.save_every or self.eval_every
        model.begin_training(train, data.train)
        self.at = folder.restore(model)
        self.pending: list[Any] = []  # statistics not yet pulled from the device
        self.clock = time.perf_counter()

    def update(self) -> None:
        """One batch: everything it depends on is a function of the seed and the step."""
        train, step = self.spec.train, self.at.step
        rows = self.order.rows(step)
        masks = batches.dropout(
            train.seed, step, (train.dropout, train.head_dropout), train.batch_size, self.sizes
        )
        rate = learning_rate(train, step, self.total)
        self.pending.append(self.model.train_step(rows, rate, masks))
        self.at.step += 1

    def pull(self) -> None:
        """Fetch the statistics of the updates since the last call: the only wait on the device.

        Raises:
            DivergedError: a loss or a gradient norm is not finite.
        """
        if not self.pending:
            return
        rows = self.model.fetch(self.pending)
        first = self.at.step - len(self.pending) + 1
        self.pending.clear()
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            self.diverged(
                f"loss={rows[bad[0], 0]}, grad_norm={rows[bad[0], 2]} at step {first + bad[0]}"
            )
        self.at.unreported += rows.tolist()
        now = time.perf_counter()
        self.at.elapsed_s += now - self.clock
        self.clock = now

    def diverged(self, what: str) -> None:
        """Raise DivergedError with what was seen and what is safe."""
        raise DivergedError(
            f"train: expected finite numbers, got {what}; the last good checkpoint is "
            f"{self.folder.latest()}; try a smaller --lr, --clip 1, or --norm sum"
        )

    def tell(self, split: str, values: Mapping[str, float]) -> None:
        """Write one line of metrics and show it."""
        line = {"step": self.at.step, "split": split, **values}
        line["elapsed_s"] = round(self.at.elapsed_s, 3)
        line["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.folder.append_metrics(line)
        self.hooks.on_metrics(line)

    def log(self) -> None:
        """Training metrics: means over the updates since the last such line."""
        self.pull()
        rows = np.asarray(self.at.unreported)
        loss, wrong, norm = rows.mean(axis=0)
        seconds = self.at.elapsed_s - self.at.reported_s
        batch = self.spec.train.batch_size
        self.at.unreported, self.at.reported_s = [], self.at.elapsed_s
        self.tell(
            "train",
            {
                "loss": loss,
                "error_pct": 100 * wrong / batch,
                "grad_norm": norm,
                "lr": learning_rate(self.spec.train, self.at.step - 1, self.total),
                "examples_per_s": round(len(rows) * batch / max(seconds, 1e-9), 1),
            },
        )

    def validate(self) -> None:
        """Validation metrics; a lower error (then a lower loss) makes this step the best."""
        self.pull()
        found = measure(self.model, self.data.val)
        if not np.isfinite(found["loss"]):
            self.diverged(f"validation loss={found['loss']} at step {self.at.step}")
        self.tell("val", found)
        new = Best(step=self.at.step, error_pct=found["error_pct"], loss=found["loss"])
        if self.at.best is None or new.rank() < self.at.best.rank():
            self.at.best = new
        self.clock = time.perf_counter()  # evaluation is not training time

    def save(self) -> None:
        """A checkpoint of this step; metrics reach the disk first."""
        self.pull()
        self.folder.save(self.model, self.spec, self.at)
        self.clock = time.perf_counter()

    def due(self, every: int) -> bool:
        """Whether something done every so many updates is due now; the last update always is."""
        return self.at.step % every == 0 or self.at.step == self.total

    def run(self, stop_after: int | None) -> None:
        """Updates until the end, a stop after so many updates, or a signal."""
        if self.at.step == 0:
            self.save_if_new()  # so that there is always a good checkpoint to go back to
        first = self.at.step
        while self.at.step < self.total:
            self.update()
            if self.due(self.spec.report.log_every):
                self.log()
            validated = self.due(self.eval_every)
            if validated:
                self.validate()
            if self.due(self.save_every) or (validated and self.is_best()):
                self.save()
            self.stop_if_asked()
            if stop_after is not None and self.at.step - first >= stop_after:
                self.save_if_new()
                return

    def is_best(self) -> bool:
        """Whether this very step is the best so far."""
        return self.at.best is not None and self.at.best.step == self.at.step

    def save_if_new(self) -> None:
        """A checkpoint of this step unless it has one."""
        if self.folder.latest_step() != self.at.step:
            self.save()

    def stop_if_asked(self) -> None:
        """Save and raise Interrupted if a signal came."""
        number = self.hooks.stop_signal()
        if number is not None:
            self.save_if_new()
            raise Interrupted(
                f"train: stopped by signal {number} at step {self.at.step} of {self.total}; "
                f"saved {self.folder.latest()}; go on with: fwt train --resume {self.folder.path}",
                number,
            )


def train(
    model: Trainable,
    spec: RunSpec,
    data: Data,
    folder: RunFolder,
    hooks: Hooks | None = None,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train a model, or go on where its run folder stopped.

    Args:
        model: compiled from `spec.model`; its weights are replaced if the folder has a checkpoint.
        spec: the whole run.
        data: the task's splits; `test` is touched once, after the last update.
        folder: the run's folder; metrics and checkpoints go there.
        hooks: what to call while running.
        stop_after: stop, saved, after this many updates of this call; None goes to the end.

    Returns:
        The final result (test error of the checkpoint that was best on the validation split), or
        None if `stop_after` stopped the run before its end.

    Raises:
        DivergedError: a loss is not finite; the last good checkpoint stays.
        Interrupted: a signal came; the run was saved.
        FileError: something could not be written.
    """
    loop = _Loop(model, spec, data, folder, hooks or Hooks())
    loop.run(stop_after)
    if loop.at.step < loop.total:
        return None
    return finish(loop)


def finish(loop: _Loop) -> dict[str, Any]:
    """Test the checkpoint that was best on the validation split and mark the run as done."""
    best = loop.at.best
    if best is None:
        raise DivergedError(f"train: no step of {loop.folder.path} was validated")
    loop.model.load_parameters(loop.folder.load_best().params)
    found = measure(loop.model, loop.data.test)
    loop.tell("test", {**found, "best_step": best.step})
    result = {
        "test": found,
        "val": {"loss": best.loss, "error_pct": best.error_pct},
        "best_step": best.step,
        "steps": loop.total,
        "train_s": round(loop.at.elapsed_s, 1),
    }
    loop.folder.finish(result)
    return result


__all__ = ["Data", "Hooks", "Progress", "Trainable", "measure", "train"]
