"""What a task is: data as NumPy arrays, their meaning, and the shape of model they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.frozen import Frozen
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training.batches import Split as Split

SPLITS = ("train", "val", "test")


def check_split(name: str) -> None:
    """Refuse a name that is no split. Raises ConfigError with the nearest one."""
    if name not in SPLITS:
        raise ConfigError(f"task: unknown split {name!r} ({nearest(name, SPLITS)})")


class TaskSpec(Frozen):
    """The base of a task's options; `kind` is the task's name on the command line.

    Two equal specs give equal data, bit for bit, on every machine.
    """

    kind: str

    @property
    def reads_files(self) -> bool:
        """Whether its data lies in files, so that a folder may be named for them."""
        return True


@dataclass(frozen=True)
class Shape:
    """What a model needs to know of a task.

    Attributes:
        steps: T, time steps of a sequence.
        symbols: how many symbols the inputs count (0: the inputs are numbers).
        features: I, numbers a step (0: the inputs are symbols).
        classes: how many classes the targets count.
    """

    steps: int
    symbols: int
    features: int
    classes: int


@dataclass(frozen=True)
class Control:
    """The control signal of the multi-level memory, in time steps counted from 0.

    Attributes:
        store: after these steps the hidden state is written into the fast weights.
        wipe: whether the hidden state is set to zero after each store.
        integrate: these steps use the integration weights W_int, C_int.
    """

    store: tuple[int, ...]
    wipe: bool
    integrate: tuple[int, ...]


class Pictures(NamedTuple):
    """An input as pictures, all in [0, 1].

    Attributes:
        whole: the image, (H, W).
        views: what each time step shows of it, (T, h, w).
    """

    whole: NumpyArray
    views: NumpyArray


class Reader(Protocol):
    """What a task makes of one example, without any data at hand."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes 0, 1, ... are called."""
        ...

    def parse(self, text: str) -> NumpyArray: ...

    def labels(self, inputs: NumpyArray) -> tuple[str, ...]:
        """A short name for each time step of an input, (T,) or (T, I)."""
        ...

    def pictures(self, inputs: NumpyArray) -> Pictures | None:
        """What an input shows; None for symbols."""
        ...


class Task(Protocol):
    """A task with its data at hand."""

    @property
    def spec(self) -> TaskSpec:
        """The options, with everything resolved (a dataset `auto` has become a real name)."""
        ...

    @property
    def shape(self) -> Shape:
        """What a model needs to know of the task."""
        ...

    @property
    def dataset(self) -> str:
        """The name of the data that was really used, e.g. `mnist` or `mnist-subset`."""
        ...

    @property
    def chance_error(self) -> float:
        """Test error in percent of guessing."""
        ...

    @property
    def control(self) -> Control | None:
        """The multi-level control signal, where the task defines one."""
        ...

    @property
    def published(self) -> dict[str, dict[int, float]]:
        """Published test error in percent: model name -> R -> error."""
        ...

    @property
    def data_bytes(self) -> int:
        """Bytes that all splits take in memory, known before they are made."""
        ...

    def split(self, name: str) -> Split:
        """The examples of `train`, `val` or `test`. Raises ConfigError for another name."""
        ...

    def render(self, inputs: NumpyArray, target: int | None = None) -> str:
        """One example as text a person can read (several lines where it is a picture)."""
        ...

    def parse(self, text: str) -> NumpyArray:
        """One input typed by hand (or named as a file) as the model's input, (T,) or (T, I)."""
        ...
