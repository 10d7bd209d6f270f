"""The weights that a run begins with: drawn from its seed, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fwt import shipped
from fwt.fwcore import model, params, paths
from fwt.fwcore.errors import CheckpointError, ConfigError, FileError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import InitSpec, RunSpec
from fwt.fwcore.storage import checkpoint, foreign
from fwt.fwcore.storage.checkpoint import MODEL_FILE, Checkpoint
from fwt.opening import pt_reader

UNKNOWN = "0" * 64  # in place of a SHA-256 that was not given


class First(NamedTuple):
    """What a run begins with.

    Attributes:
        weights: by canonical name.
        notes: what was changed in a file of another program; see `Checkpoint`.
    """

    weights: dict[str, NumpyArray]
    notes: tuple[str, ...] = ()


def begun_from(spec: RunSpec, settings: Mapping[str, Any]) -> RunSpec:
    """A new run's spec that names the checkpoint it begins with.

    Args:
        spec: the run without it.
        settings: the table `init`: `path`, perhaps `layout`, and the `sha256` of another run's
            spec that is repeated.

    Raises:
        ConfigError: a key or value is none, or the checkpoint is another than `sha256` says.
        CheckpointError: it is missing or damaged, or its weights do not fit the model.
    """
    asked = InitSpec.parse({"sha256": UNKNOWN, **settings}, "init")
    found = _loaded(shipped.find(paths.expand(asked.path)), asked.layout, spec)
    init = asked.model_copy(
        update={"path": str(found.path.absolute()), "sha256": _sha256(found.path)}
    )
    if asked.sha256 != UNKNOWN:
        _check_same(asked, init.sha256)
    return spec.model_copy(update={"init": init})


def first_weights(spec: RunSpec) -> First:
    """The weights of step 0, in float64 for a run in it, else in float32.

    Raises:
        ConfigError: the checkpoint that the run begins with was changed since.
        CheckpointError: it is gone or damaged.
    """
    dtype = "float64" if spec.train.dtype == "float64" else "float32"
    if spec.init is None:
        return First(params.initialise(model.parameters(spec.model), spec.train.seed, dtype))
    found = _loaded(Path(spec.init.path), spec.init.layout, spec)
    _check_same(spec.init, _sha256(found.path))
    weights = {name: array.astype(dtype) for name, array in found.params.items()}
    return First(weights, found.notes)


def _loaded(path: Path, layout: str | None, spec: RunSpec) -> Checkpoint:
    """The checkpoint, whose weights fit the run's model."""
    found = foreign.load(path, spec, layout, pt_reader(path))
    faults = params.mismatches(model.parameters(spec.model), found.params)
    if faults:
        core = found.spec.model.core
        raise CheckpointError(
            f"--init-from: {paths.show(path)}: weights do not fit the model: {'; '.join(faults)}; "
            f"they are of --model {core.kind} --size {core.size}, "
            f"task {found.spec.task.get('kind')}"
        )
    return found


def _sha256(path: Path) -> str:
    """SHA-256 of the file of weights."""
    file = path / MODEL_FILE if path.is_dir() else path
    try:
        return checkpoint.sha256(file)
    except OSError as error:
        raise FileError(f"{paths.show(file)}: cannot be read: {error.strerror}") from error


def _check_same(init: InitSpec, got: str) -> None:
    if got != init.sha256:
        raise ConfigError(
            f"--init-from: {paths.show(init.path)}: expected the weights of "
            f"sha256={init.sha256[:16]}..., got {got[:16]}...; the run was planned with others"
        )
