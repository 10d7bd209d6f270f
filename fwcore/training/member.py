"""One run of the training loop: what its next update depends on, its metrics, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fwt.fwcore import layers, params
from fwt.fwcore.errors import DivergedError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.checkpoint import Best
from fwt.fwcore.storage.runs import RunFolder, Weighted
from fwt.fwcore.training import batches
from fwt.fwcore.training.batches import BatchOrder, Dropout
from fwt.fwcore.training.ranks import Ranks, share_progress, share_weights
from fwt.fwcore.training.schedule import learning_rate


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


def stack(given: Sequence[Batch]) -> tuple[NumpyArray, NumpyArray, Dropout | None]:
    """The batches of P runs as arguments of `Lockstep.train_step`."""
    rows, lrs = np.stack([batch.rows for batch in given]), np.array([batch.lr for batch in given])
    masks = [batch.dropout for batch in given if batch.dropout is not None]
    if not masks:
        return rows, lrs, None
    places = zip(*masks, strict=True)
    return rows, lrs, Dropout(*(None if m[0] is None else np.stack(m) for m in places))


class Member:
    """One run of the loop: its position, its metrics and its checkpoints.

    Of several processes that train it together the first reads and writes its folder, and the
    others have what it reads.

    Args:
        number: its place among the runs.
        model: its weights and moments.
        spec: the run.
        examples: of the training split.
        folder: the run's folder.
        ranks: the processes that train it together.

    Attributes:
        at: how far it is.
        saved: the step of its last checkpoint.
        result, error: how it ended.
    """

    def __init__(
        self,
        number: int,
        model: Weighted,
        spec: RunSpec,
        examples: int,
        folder: RunFolder,
        ranks: Ranks,
    ) -> None:
        self.number, self.model, self.spec, self.folder = number, model, spec, folder
        self._ranks, self._writes = ranks, ranks.number == 0
        train = spec.train
        self.order = BatchOrder(train.seed, examples, train.batch_size)
        self.examples, self.total = examples, train.total_steps(examples)
        self.sizes = (layers.encoder_outputs(spec.model.encoder), spec.model.core.size)
        self.at = share_progress(ranks, model, folder.restore(model) if self._writes else None)
        self.saved = folder.latest_step() if self._writes else self.at.step or None
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
            f"{self.last_checkpoint()}; try a smaller --lr, --clip 1, or --norm sum"
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
        if self._writes:
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
        if self._writes:
            self.folder.save(self.model, self.spec, self.at)
        self.saved = self.at.step

    def last_checkpoint(self) -> Path | None:
        """The last checkpoint, which another process may still be writing."""
        return None if self.saved is None else self.folder.checkpoint_of(self.saved)

    def best(self) -> Best:
        """The step that was best on the validation split."""
        if self.at.best is None:
            raise DivergedError(f"train: no step of {self.folder.path} was validated")
        return self.at.best

    def load_best(self) -> None:
        """Put the checkpoint that was best on the validation split into the model."""
        self.best()
        if self._writes:
            self.folder.restore_best(self.model)
        share_weights(self._ranks, self.model)

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
        if self._writes:
            self.folder.finish(self.result)
        return line
