"""What the training loop costs: its examples a second against those of the bare step."""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fwt import tasks
from fwt.bench.subjects import Framework
from fwt.bench.timing import timed
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.runs import RunFolder
from fwt.fwcore.training.batches import BatchOrder, Data
from fwt.fwcore.training.group import Hooks
from fwt.fwcore.training.loop import train
from fwt.tasks.base import SPLITS


class Extent(NamedTuple):
    """How much is run.

    Attributes:
        rounds: turns of the loop and of the bare step.
        lines: lines of metrics that count, a turn; one before them warms up.
        updates: a line.
        examples: of the training split.
    """

    rounds: int = 5
    lines: int = 3
    updates: int = 100
    examples: int = 100_000


def spec_for(extent: Extent) -> RunSpec:
    """Retrieval with R = 50 and the settings of `TrainSpec`; longer than will be run."""
    per_turn = (1 + extent.lines) * extent.updates
    return RunSpec.parse(
        {
            "task": {"kind": "retrieval", "train": extent.examples, "val": 128, "test": 128},
            "model": {
                "encoder": {"kind": "embedding", "symbols": 37},
                "core": {"kind": "fast-weights", "size": 50},
                "head": {"classes": 10},
            },
            "train": {"steps": extent.rounds * per_turn + 1},
            "report": {"log_every": extent.updates},
        },
        "bench --loop",
    )


def loop(side: Framework, extent: Extent) -> dict[str, Any]:
    """Examples a second of the training loop and of the bare step, in turns; medians.

    The bare step waits for the device after every update, as in the benchmark's rows.
    """
    spec = spec_for(extent)
    task = tasks.load(tasks.parse(spec.task))
    data = Data(*(task.split(name) for name in SPLITS))
    model, bare = (
        side.backend.compile(spec.model, device=side.device, dtype="float32") for _ in range(2)
    )
    bare.begin_training(spec.train, data.train)
    order = BatchOrder(spec.train.seed, len(data.train), spec.train.batch_size)

    def one_line(first: int) -> None:
        """The bare updates of a line, from update `first` on."""
        for step in range(first, first + extent.updates):
            side.wait(bare.train_step(order.rows(step), spec.train.lr, None))

    looped: list[float] = []
    alone: list[float] = []
    per_turn = (1 + extent.lines) * extent.updates
    with (
        tempfile.TemporaryDirectory() as root,
        RunFolder.create(Path(root) / "run", spec) as folder,
    ):
        for turn in range(extent.rounds):
            told: list[dict[str, Any]] = []
            train(model, spec, data, folder, Hooks(on_metrics=told.append), stop_after=per_turn)
            lines = [line for line in told if line["split"] == "train"]
            looped += [line["examples_per_s"] for line in lines[1:]]
            starts = range(turn * per_turn, (turn + 1) * per_turn, extent.updates)
            spent = [timed(partial(one_line, first)) for first in starts]
            alone += [extent.updates * spec.train.batch_size / seconds for seconds in spent[1:]]
    ours, theirs = statistics.median(looped), statistics.median(alone)
    return {
        "task": task.dataset,
        "size": spec.model.core.size,
        "batch": spec.train.batch_size,
        "loop_examples_per_s": ours,
        "bare_examples_per_s": theirs,
        "ratio": ours / theirs,
        "n": len(looped),
    }
