"""A trained network on a backend, with what its task knows of examples and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fwt import tasks
from fwt.backends.contract import Compiled, Stream
from fwt.fwcore.analysis.compare import softmax
from fwt.fwcore.analysis.trace import Trace
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.training.evaluation import EVALUATION_BATCH, measure
from fwt.opening import task_of
from fwt.tasks.base import Reader, check_split

BATCH = 1000  # examples computed at once


class Model:
    """A trained network on a backend; `fwt.load` gives one.

    Inputs are what the task makes of examples: symbols, int (B, T), or numbers, (B, T, I).

    Attributes:
        checkpoint: spec, weights and progress as they were saved.
        compiled: the network on its backend, see `fwt.backends.contract.Compiled`.

    Example:
        >>> import fwt
        >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
        >>> model.predict("c9k8j3f1??c")[0]["answer"]
        '9'
        >>> model.forward(model.inputs("c9k8j3f1??c")).shape
        (1, 10)
    """

    def __init__(self, checkpoint: Checkpoint, compiled: Compiled) -> None:
        self.checkpoint, self.compiled = checkpoint, compiled

    @property
    def spec(self) -> RunSpec:
        """The run that trained it: task, model, training."""
        return self.checkpoint.spec

    @property
    def module(self) -> Any:
        """The native object: a `torch.nn.Module`, an `mlx.nn.Module`, a dict for NumPy."""
        return self.compiled.module

    @cached_property
    def reader(self) -> Reader:
        """What its task makes of one example, without any data at hand."""
        return tasks.reader(tasks.parse(self.spec.task, str(self.checkpoint.path)))

    def parameters(self) -> dict[str, NumpyArray]:
        """All weights by canonical name, in float32 or float64.

        Example:
            >>> import fwt
            >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
            >>> model.parameters()["core.w"].shape
            (20, 20)
        """
        return self.compiled.parameters()

    def inputs(self, examples: str | Path | NumpyArray | Sequence[Any]) -> NumpyArray:
        """Examples of one length as a batch, (B, T) or (B, T, I).

        Args:
            examples: one or several of what `predict` takes.

        Raises:
            ConfigError: an example cannot be, or their lengths differ.
        """
        parsed = [self._parse(each) for each in _listed(examples)]
        if len({array.shape for array in parsed}) != 1:
            shapes = ", ".join(str(array.shape) for array in parsed)
            raise ConfigError(f"inputs: expected examples of one shape, got {shapes or 'none'}")
        return np.stack(parsed)

    def _parse(self, example: Any) -> NumpyArray:
        if isinstance(example, np.ndarray):
            return example
        return self.reader.parse(str(example))

    def forward(self, inputs: NumpyArray) -> NumpyArray:
        """Class scores, (B, T) or (B, T, I) -> (B, classes).

        Raises:
            ConfigError: the inputs have another shape or type, or symbols that are none.
        """
        return self.compiled.forward(inputs)

    def predict(
        self, examples: str | Path | NumpyArray | Sequence[Any], top: int = 3
    ) -> list[dict[str, Any]]:
        """The most probable answers to one example or several, the best first.

        Args:
            examples: strings such as `c9k8j3f1??c`, paths of 28x28 images (.npy, .png), or arrays
                of inputs (T,) or (T, I).
            top: how many answers are told.

        Returns:
            Of each example `input`, `answer`, `probability`, and the `others`.

        Raises:
            ConfigError, DataError: an example cannot be read; nothing was computed.

        Example:
            >>> import fwt
            >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
            >>> [each["answer"] for each in model.predict(["c9k8j3f1??c", "a1b2c3d4??d"])]
            ['9', '4']
        """
        given = _listed(examples)
        inputs = [self._parse(each) for each in given]
        answers: dict[int, dict[str, Any]] = {}
        classes = self.reader.classes
        for numbers in _batches(inputs):
            chances = softmax(self.forward(np.stack([inputs[n] for n in numbers])))
            for number, row in zip(numbers, chances, strict=True):
                best, *others = np.argsort(-row, kind="stable")[:top]
                answers[number] = {
                    "input": _name(given[number]),
                    "answer": classes[best],
                    "probability": float(row[best]),
                    "others": [
                        {"answer": classes[n], "probability": float(row[n])} for n in others
                    ],
                }
        return [answers[number] for number in range(len(given))]

    def evaluate(
        self, split: str = "test", *, dataset: str | None = None, data_dir: Path | None = None
    ) -> dict[str, Any]:
        """Mean loss (nats) and error (percent) on a split of its task.

        Args:
            split: `train`, `val` or `test`.
            dataset: another dataset of the same task; None takes that of the checkpoint.
            data_dir: where the dataset's files lie; None looks in the cache and downloads.

        Returns:
            `split`, `dataset`, `backend`, `device`, `dtype`, `memory`, `loss`, `error_pct` and the
            number of `examples`.

        Raises:
            ConfigError: an unknown split or dataset.
            DataError: the data cannot be had.
            DivergedError: the loss is not finite.

        Example:
            >>> import fwt
            >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
            >>> model.evaluate()["error_pct"]
            0.525
        """
        check_split(split)
        task = task_of(self.checkpoint, data_dir, dataset)
        found = measure(self.compiled, task.split(split))
        facts = self.describe(EVALUATION_BATCH, task.shape.steps)
        place = {key: facts[key] for key in ("backend", "device", "dtype", "memory")}
        return {"split": split, "dataset": task.dataset, **place, **found}

    def trace(self, examples: str | Path | NumpyArray | Sequence[Any]) -> Trace:
        """The forward pass with all that it read on the way, in the attention form.

        Args:
            examples: one or several of what `predict` takes, of one length.

        Example:
            >>> import fwt
            >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
            >>> model.trace("c9k8j3f1??c").steps[10].reads[0].steps
            (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
        """
        return self.compiled.trace(self.inputs(examples))

    def stream(self, batch: int = 1) -> Stream:
        """The core fed one time step at a time, on arrays of the framework, without gradients.

        Args:
            batch: B, sequences side by side.
        """
        return self.compiled.stream(batch)

    def describe(self, batch: int = 1, steps: int = 1) -> dict[str, Any]:
        """Backend, device, number type, and which forms and kernels run.

        Args:
            batch: B, sequences.
            steps: T of each.
        """
        return self.compiled.describe(batch, steps)


def _name(example: Any) -> str:
    """What an example is called among answers: its text; nothing for an array."""
    return "" if isinstance(example, np.ndarray) else str(example).strip()


def _listed(examples: str | Path | NumpyArray | Sequence[Any]) -> list[Any]:
    return [examples] if isinstance(examples, str | Path | np.ndarray) else list(examples)


def _batches(inputs: Sequence[NumpyArray]) -> Iterator[list[int]]:
    """Numbers of inputs of one shape, so that they can be computed together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, array in enumerate(inputs):
        groups.setdefault(array.shape, []).append(number)
    for numbers in groups.values():
        for first in range(0, len(numbers), BATCH):
            yield numbers[first : first + BATCH]
