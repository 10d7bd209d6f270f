"""What a model may be given: one check for all backends, before a framework sees an array.

Array-likes become contiguous NumPy arrays of the type that the frameworks take: symbols, labels and
row numbers int64, numbers float32 or float64. Whatever else comes is refused with one line.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwt.fwcore import layers
from fwt.fwcore.errors import CheckpointError, ConfigError
from fwt.fwcore.memory import check_sizes
from fwt.fwcore.ops import OWN, NumpyArray
from fwt.fwcore.params import Param, mismatches
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.training.batches import Split


def _array(name: str, given: object) -> NumpyArray:
    """An array-like as an array. Raises ConfigError for what is none."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{name}: expected an array of numbers, got {error}") from error
    if array.dtype.kind not in "iufbc":
        raise ConfigError(
            f"{name}: expected an array of numbers, got dtype={array.dtype}, shape={array.shape}"
        )
    return array


def _whole(name: str, what: str, given: object, shape: str, axes: int, end: int) -> NumpyArray:
    """Whole numbers from 0 to before `end`, int64 with so many axes."""
    array = _array(name, given)
    if array.dtype.kind not in "iu" or array.ndim != axes:
        raise ConfigError(
            f"{name}: expected {what}, whole numbers {shape}, got dtype={array.dtype}, "
            f"shape={array.shape}"
        )
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high >= end:
        wrong = low if low < 0 else high
        raise ConfigError(f"{name}: expected {what} from 0 to {end - 1}, got {wrong}")
    return np.require(array, np.int64, OWN)


def _numbers(name: str, given: object, shape: str, sizes: tuple[int | None, ...]) -> NumpyArray:
    """Floating numbers of a shape, float32 or float64; None in `sizes` stands for any size."""
    array = _array(name, given)
    hint = "; divide pixels by their largest value" if array.dtype == np.uint8 else ""
    if array.dtype.kind != "f":
        raise ConfigError(
            f"{name}: expected floating numbers {shape}, got dtype={array.dtype}, "
            f"shape={array.shape}{hint}"
        )
    fits = array.ndim == len(sizes) and all(
        want is None or got == want for got, want in zip(array.shape, sizes, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ConfigError(
            f"{name}: expected numbers {shape} of shape ({wanted}), got shape={array.shape}"
        )
    wide = array.dtype.itemsize >= np.dtype(np.float64).itemsize
    return np.require(array, np.float64 if wide else np.float32, OWN)


def check_inputs(spec: ModelSpec, inputs: object) -> NumpyArray:
    """A batch as the encoder takes it: symbols int64 (B, T), or numbers (B, T, features).

    Raises:
        ConfigError: it is not that, is empty, or has a symbol that the encoder does not know.
    """
    symbols = layers.encoder_symbols(spec.encoder)
    if symbols:
        array = _whole("inputs", "symbols", inputs, "(B, T)", 2, symbols)
    else:
        features = layers.encoder_outputs(spec.encoder)
        if isinstance(spec.encoder, layers.LinearSpec):
            features = spec.encoder.features
        array = _numbers("inputs", inputs, "(B, T, features)", (None, None, features))
    check_sizes(*array.shape[:2])
    return array


def check_targets(spec: ModelSpec, targets: object, count: int) -> NumpyArray:
    """The classes of so many examples, int64 (B,).

    Raises:
        ConfigError: they are not that, or one is not a class of the head.
    """
    array = _whole("targets", "classes", targets, "(B,)", 1, spec.head.classes)
    if len(array) != count:
        raise ConfigError(f"targets: expected one for each of {count} examples, got {len(array)}")
    return array


def check_split(spec: ModelSpec, split: Split) -> Split:
    """A split whose inputs and targets fit a model, as `check_inputs` and `check_targets` say."""
    inputs = check_inputs(spec, split.inputs)
    return Split(inputs, check_targets(spec, split.targets, len(inputs)))


def check_rows(rows: object, examples: int, members: int | None = None) -> NumpyArray:
    """Row numbers of a split: int64 (B,), or (P, B) for P members.

    Raises:
        ConfigError: they are not that, or one is beyond the split.
    """
    axes, shape = (1, "(B,)") if members is None else (2, "(P, B)")
    array = _whole("rows", "rows", rows, shape, axes, examples)
    check_sizes(array.shape[-1], 1)
    if members is not None and len(array) != members:
        raise ConfigError(f"rows: expected those of {members} members, got {len(array)}")
    return array


def check_core_inputs(spec: ModelSpec, x: object, first: int) -> NumpyArray:
    """What the core is to be given, (B, T, I), from time step `first` on.

    Raises:
        ConfigError: it is not that, is empty, or `first` is no time step.
    """
    array = _numbers("x", x, "(B, T, I)", (None, None, layers.encoder_outputs(spec.encoder)))
    check_sizes(*array.shape[:2])
    if isinstance(first, bool) or not isinstance(first, int | np.integer) or first < 0:
        raise ConfigError(f"first: expected the number of a time step, 0 or more, got {first=}")
    return array


def check_state(
    spec: ModelSpec, given: Mapping[str, object] | None, batch: int
) -> dict[str, NumpyArray]:
    """A start state: arrays of the core's state by name, those left out being zeros.

    Raises:
        ConfigError: a name is not of this core's state, or an array has another shape.
    """
    known = spec.core.state_shapes()
    found = {}
    for name, array in (given or {}).items():
        if name not in known:
            raise ConfigError(
                f"state: unknown name {name!r}; the core {spec.core.kind!r} has {', '.join(known)}"
            )
        sizes = (batch, *known[name])
        found[name] = _numbers(f"state {name!r}", array, "(B, ...)", sizes)
    return found


def check_pull(
    spec: ModelSpec, inputs: NumpyArray, outputs: object, scores: object
) -> tuple[NumpyArray, NumpyArray]:
    """Gradients of the outputs (T, B, R) and of the class scores (B, classes) of checked inputs.

    Raises:
        ConfigError: they are not that.
    """
    batch, steps = inputs.shape[:2]
    return (
        _numbers("outputs", outputs, "(T, B, R)", (steps, batch, spec.core.size)),
        _numbers("scores", scores, "(B, classes)", (batch, spec.head.classes)),
    )


def check_batch(batch: object) -> int:
    """How many sequences a stream feeds side by side. Raises ConfigError unless it is 1 or more."""
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer):
        raise ConfigError(f"stream: expected a whole number of sequences, got {batch=}")
    check_sizes(int(batch), 1)
    return int(batch)


def check_moments(
    table: list[Param], moments: Mapping[str, NumpyArray], where: str
) -> dict[str, NumpyArray]:
    """Adam's moments, exactly `m.<name>` and `v.<name>` of every parameter, contiguous.

    Raises:
        CheckpointError: naming every missing, extra, mis-shaped or mis-typed array.
    """
    both = [
        Param(f"{moment}.{param.name}", param.shape, param.axes, param.init)
        for param in table
        for moment in ("m", "v")
    ]
    if faults := mismatches(both, moments):
        raise CheckpointError(f"{where}: moments do not fit the model: {'; '.join(faults)}")
    return {name: np.require(array, requirements=OWN) for name, array in moments.items()}
