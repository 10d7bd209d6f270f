"""What many models cost as one program, beside the same models one after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fwt import tasks
from fwt.backends.contract import Compiled, Population, compile_population
from fwt.bench import timing
from fwt.bench.subjects import Framework
from fwt.fwcore import model
from fwt.fwcore.errors import CheckFailed
from fwt.fwcore.params import initialise
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.training.batches import BatchOrder, Split

BOUND = 1e-4  # relative, between the losses of a member and of the model alone
CHECKED = 3  # updates whose losses are compared


class Extent(NamedTuple):
    """How much is run.

    Attributes:
        members: models of the population.
        rounds: turns of each of the three subjects.
        examples: of the training split.
    """

    members: int = 16
    rounds: int = 20
    examples: int = 100_000


MODEL = {
    "encoder": {"kind": "embedding", "symbols": 37},
    "core": {"kind": "fast-weights", "size": 20},
    "head": {"classes": 10},
}


def population(side: Framework, extent: Extent) -> dict[str, Any]:
    """A step of P models on retrieval at R = 20: together, one after another, and of one alone.

    Each waits for the device, and every model has its own batches. Medians.

    Raises:
        CheckFailed: a member's losses are not those of the model alone.
    """
    spec = ModelSpec.parse(MODEL, "bench --population")
    task = tasks.load(tasks.parse({"kind": "retrieval", "train": extent.examples}))
    data = task.split("train")
    seeds = range(extent.members)
    first = [initialise(model.parameters(spec), seed) for seed in seeds]
    trains = [TrainSpec(steps=10**6, seed=seed) for seed in seeds]
    orders = [BatchOrder(seed, len(data), trains[0].batch_size) for seed in seeds]
    together = _population(side, spec, first, trains, data)
    alone = [_alone(side, spec, *one, data) for one in zip(first, trains, strict=True)]
    lr, steps = trains[0].lr, iter(range(10**6))

    def all_at_once() -> Any:
        step = next(steps)
        rows = np.stack([order.rows(step) for order in orders])
        stats = together.train_step(rows, np.full(len(rows), lr), None)
        side.wait(stats)
        return stats

    def single(number: int) -> Any:
        stats = alone[number].train_step(orders[number].rows(next(steps)), lr, None)
        side.wait(stats)
        return stats

    _check(together, alone, orders, lr)
    calls: dict[str, timing.Call] = {
        "together": all_at_once,
        "in turn": lambda: [single(number) for number in seeds],
        "one": lambda: single(0),
    }
    for call in calls.values():
        timing.warmed(call, 60.0)
    found = timing.measure(calls, dict.fromkeys(calls, extent.rounds), {"one"})
    times = {name: timing.summary(samples, 1) for name, samples in found.items()}
    medians = {name: one["median_ms"] for name, one in times.items()}
    return {
        "task": task.dataset,
        "size": spec.core.size,
        "batch": trains[0].batch_size,
        "members": extent.members,
        "times": times,
        "to_in_turn": medians["together"] / medians["in turn"],
        "to_one": medians["together"] / medians["one"],
        **{k: together.describe(128, task.shape.steps)[k] for k in ("memory", "kernel", "step")},
    }


def _population(
    side: Framework, spec: ModelSpec, first: list[Any], trains: list[TrainSpec], data: Split
) -> Population:
    made = compile_population(
        side.backend, [spec] * len(first), first, device=side.device, dtype="float32"
    )
    made.begin_training(trains, data)
    return made


def _alone(side: Framework, spec: ModelSpec, first: Any, train: TrainSpec, data: Split) -> Compiled:
    made = side.backend.compile(spec, first, device=side.device, dtype="float32")
    made.begin_training(train, data)
    return made


def _check(
    together: Population, alone: list[Compiled], orders: list[BatchOrder], lr: float
) -> None:
    """Hold the first losses of every member against the model's alone."""
    for step in range(CHECKED):
        rows = [order.rows(step) for order in orders]
        stats = together.train_step(np.stack(rows), np.full(len(rows), lr), None)
        got = together.fetch([stats])[0, :, 0]
        lone = zip(alone, rows, strict=True)
        want = np.array([one.fetch([one.train_step(r, lr, None)])[0, 0] for one, r in lone])
        gap = float((np.abs(got - want) / want).max())
        if not gap <= BOUND:
            raise CheckFailed(
                f"bench --population: losses of update {step} differ from those of the models "
                f"alone by {gap:.1e} of themselves, allowed are {BOUND:.0e}"
            )
