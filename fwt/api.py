"""What `import fwt` offers: the verbs of the command line as functions, with the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fwt import plan, shipped
from fwt.execute import alone, together
from fwt.execute.alone import OnMetrics
from fwt.fwcore import paths
from fwt.fwcore.cells import presets
from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.storage import foreign
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.storage.runs import find_checkpoint
from fwt.keys import KEYS
from fwt.model import Model
from fwt.opening import on_backend, pt_reader
from fwt.parity import names_of, verify_checkpoint
from fwt.plan import Place
from fwt.settings import layer, read_config
from fwt.tasks.recipe import merge

Source = str | Path


def load(
    source: Source, backend: str = "auto", *, device: str = "auto", memory: str = "auto",
    dtype: str | None = None,
) -> Model:  # fmt: skip
    """A trained network on a backend.

    Args:
        source: a run (its best checkpoint), a checkpoint folder, a model file, or the name of a
            network that ships with fwt, see `checkpoints`.
        backend: `torch`, `mlx` or `numpy`; `auto` is the first of torch and mlx that is installed.
        device: a name that `fwt doctor` lists, `gpu`, or `auto`.
        memory: the form of the fast memory: `fused`, `matrix`, `attention`, `chunked` or `auto`.
        dtype: `float32`, `float64` or `bfloat16`; None takes that of the run. NumPy computes in
            float64.

    Raises:
        CheckpointError: it is missing or damaged.
        BackendError: the backend, device or number type is not there.

    Example:
        >>> import fwt
        >>> model = fwt.load("retrieval-fast-weights-r20", backend="numpy")
        >>> model.predict("c9k8j3f1??c")[0]["answer"]
        '9'
    """
    checkpoint = find_checkpoint(_path(source))
    return Model(checkpoint, on_backend(backend, checkpoint, device, memory, dtype))


def _path(source: Source) -> Path:
    return shipped.find(paths.expand(source))


def train(
    task: str | None = None,
    model: str | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    memory: str = "auto",
    control: str | None = None,
    config: Source | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    data_dir: Source | None = None,
    out: Source | None = None,
    runs_dir: Source = "runs",
    stop_after: int | None = None,
    on_metrics: OnMetrics | None = None,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train a model on a task, as `fwt train` does.

    Settings come from the recipe of task, model and size; over it `config`, the options, and
    `settings`. Environment variables are the command line's alone. A list as `seeds`, `lr`,
    `decay` or `rate` is a run for each combination, all at once as one program.

    Args:
        task: `retrieval` or `mnist-glimpse`.
        model: one of `models()`; None takes the task's default.
        backend, device, memory: as for `load`.
        control: `auto`, `multi-level` or `flat` fast memory.
        config: a TOML or JSON file laid out like spec.json, or its tables.
        settings: any field by its dotted key, such as `{"train.beta2": 0.99}`.
        data_dir: where the dataset's files lie; None looks in the cache and downloads.
        out: the run's folder, of several the folder of theirs; None names one in `runs_dir`.
        runs_dir: the folder of runs.
        stop_after: stop, saved, after this many updates.
        on_metrics: called with every line of metrics as it is written.
        quiet: show no progress on stderr.
        **options: the flags of `fwt train` that set a field of the run: `size`, `epochs`, `steps`,
            `lr`, `seed`, `seeds`, `pairs` and so on.

    Returns:
        What `fwt train --json` prints: `done`, `run`, `test`, `val`, `best_checkpoint` and more.

    Raises:
        ConfigError: an unknown name, key or value, with the nearest known one.
        DataError: the dataset asked for cannot be had.
        BackendError: the backend, device or number type is not there.
        DivergedError: a loss is not finite; the last good checkpoint stays.
        Interrupted: a signal came; the run was saved.

    Example:
        >>> import fwt, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> result = fwt.train(
        ...     "retrieval", "irnn", size=4, steps=2, batch_size=4, runs_dir=folder,
        ...     settings={"task.train": 64, "task.val": 8, "task.test": 8},
        ... )
        >>> result["done"], result["steps"]
        (True, 2)
    """
    place = _place(backend, device, memory, data_dir, out, runs_dir)
    tables: Mapping[str, Any] = {}
    if config is not None:
        tables = config if isinstance(config, Mapping) else read_config(paths.expand(config))
    jobs = plan.new_jobs(task, model, tables, _layers(options, settings), control, place)
    if len(jobs) > 1:
        return together.run(jobs, stop_after=stop_after, on_metrics=on_metrics, quiet=quiet)
    result = alone.run(jobs[0], stop_after=stop_after, on_metrics=on_metrics, quiet=quiet)
    return result or {}


def resume(
    run: Source,
    *,
    backend: str = "auto",
    device: str = "auto",
    memory: str = "auto",
    data_dir: Source | None = None,
    stop_after: int | None = None,
    on_metrics: OnMetrics | None = None,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Go on with a run that was stopped, or make one longer.

    Args:
        run: its folder.
        backend, device, memory, data_dir, stop_after, on_metrics, quiet: as for `train`.
        **options: `epochs` or `steps` for another length, and the intervals of reports; any other
            must be what the run has.

    Returns:
        What `train` returns.

    Raises:
        ConfigError: there is no run, or an option differs from it.

    Example:
        >>> import fwt, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> small = {"task.train": 64, "task.val": 8, "task.test": 8}
        >>> stopped = fwt.train(
        ...     "retrieval", "irnn", size=4, steps=4, batch_size=4, runs_dir=folder,
        ...     settings=small, stop_after=2,
        ... )
        >>> stopped["done"], stopped["step"]
        (False, 2)
        >>> fwt.resume(stopped["run"])["done"]
        True
    """
    place = _place(backend, device, memory, data_dir, None, "runs")
    job = plan.reopen(paths.expand(run), _layers(options, None), None, None, place)
    result = alone.run(job, resume=True, stop_after=stop_after, on_metrics=on_metrics, quiet=quiet)
    return result or {}


def verify(
    source: Source,
    backends: str | Sequence[str] = "all",
    *,
    split: str = "test",
    device: str = "auto",
    memory: str = "auto",
    data_dir: Source | None = None,
) -> dict[str, Any]:
    """Compare scores, answers and gradients of a checkpoint between backends.

    Args:
        source: as for `load`.
        backends: names, or `all` that are installed.
        split: the examples: `train`, `val` or `test`.
        device, memory, data_dir: as for `load` and `train`.

    Returns:
        `checkpoint`, `split`, `dtype`, `dataset`, and `pairs`: for each pair of backends how far
        apart they are, what bounds that, and whether it is `ok`.

    Raises:
        ConfigError: fewer than two backends.

    Example:
        >>> import fwt
        >>> found = fwt.verify("retrieval-fast-weights-r20", ["numpy", "torch"], device="cpu")
        >>> found["pairs"][0]["backends"], found["pairs"][0]["ok"]
        (['numpy', 'torch'], True)
    """
    checkpoint = find_checkpoint(_path(source))
    names = names_of(backends) if isinstance(backends, str) else list(backends)
    return verify_checkpoint(checkpoint, names, split, device, memory, _optional(data_dir))


def convert(
    source: Source,
    target: Source,
    to: str,
    *,
    spec: Source | None = None,
    layout: str | None = None,
    zero_biases: bool = False,
) -> Checkpoint:
    """Convert a checkpoint, weights and optimiser state, between layouts.

    Args:
        source: what `load` takes, or a .safetensors, .npz or .pt file of another program.
        target: the folder to write; it must not exist.
        to: `torch`, `mlx` or `fwt`.
        spec: spec.json of a file that does not say what it is.
        layout: of such a file.
        zero_biases: take zeros for biases that the file has not.

    Returns:
        What was read; its `notes` say what was changed in a file of another program.

    Raises:
        ConfigError: the folder exists, or a layout is unknown or not given.
        CheckpointError: the source is damaged or does not fit its spec, every difference named.

    Example:
        >>> import fwt, tempfile
        >>> target = tempfile.mkdtemp() + "/torch"
        >>> len(fwt.convert("retrieval-lstm-r20", target, "torch").params)
        8
    """
    path = _path(source)
    found = foreign.load(path, _optional(spec), layout, pt_reader(path), zero_biases)
    foreign.save(paths.expand(target), found, to)
    return found


def models() -> list[str]:
    """The names of the models that `train` takes.

    Example:
        >>> import fwt
        >>> "fast-weights" in fwt.models()
        True
    """
    return list(presets())


def checkpoints() -> dict[str, shipped.Network]:
    """The networks that ship with fwt: name -> task, model, size, test error and more.

    Example:
        >>> import fwt
        >>> fwt.checkpoints()["retrieval-fast-weights-r20"]["test_error_pct"]
        0.525
    """
    return shipped.index()


def _optional(path: Source | None) -> Path | None:
    return None if path is None else paths.expand(path)


def _place(
    backend: str,
    device: str,
    memory: str,
    data_dir: Source | None,
    out: Source | None,
    runs_dir: Source,
) -> Place:
    folders = _optional(data_dir), _optional(out), paths.expand(runs_dir)
    return Place(backend, device, memory, *folders)


def _layers(options: Mapping[str, Any], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options by their short names and fields by their dotted keys, as settings by table."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in KEYS:
            raise ConfigError(f"train: unknown option {name!r} ({nearest(name, KEYS)})")
        if value is None:
            continue
        if KEYS[name] in found:
            raise ConfigError(f"train: {name}: expected it or seed, got both; leave one out")
        found[KEYS[name]] = list(value) if isinstance(value, range | tuple) else value
    return merge(layer(found.items(), "options"), layer((settings or {}).items(), "settings"))
