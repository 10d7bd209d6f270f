"""From layers of settings to one run: defaults < recipe < --config < FWT_* < flags < --set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fwt import data, initial, tasks
from fwt.fwcore.cells import cells, kind_of, presets
from fwt.fwcore.errors import ConfigError, FileError, nearest
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import files
from fwt.tasks.base import Control, Task
from fwt.tasks.recipe import default_model, merge, recipe

CONTROLS = ("auto", "multi-level", "flat")
TABLES = ("task", "model", "train", "report", "init")
NAMES = ("format_version", "recipe")  # further top-level keys of a spec.json; not settings
NESTED = (*TABLES, "model.encoder", "model.core", "model.head")  # what must be a table itself
FLAT: dict[str, Any] = {"store": None, "wipe": False, "integrate": []}


class Resolved(NamedTuple):
    """What layers of settings come to: a run's spec, and its task with the data at hand."""

    spec: RunSpec
    task: Task

    @property
    def model(self) -> str:
        """The model's name on the command line."""
        return name_of(self.spec.model.core.json_data())


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a TOML or JSON file laid out like a run's `spec.json`.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is not TOML or JSON, or has an unknown table.
    """
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = files.text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"config: {path} cannot be read: {error}") from error
    try:
        found = files.from_json(text) if kind == "JSON" else files.from_toml(text)
    except ValueError as error:
        raise ConfigError(f"config: {path} is not {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"config: {path}: expected tables, got {type(found).__name__}")
    for key in found:
        if key not in (*TABLES, *NAMES):
            raise ConfigError(f"config: {path}: unknown key {key!r} ({nearest(key, TABLES)})")
    check_tables(found, f"config: {path}")
    return {key: value for key, value in found.items() if key in TABLES}


def check_tables(settings: Mapping[str, Any], where: str) -> None:
    """Refuse a plain value where a table belongs, so that layers can be merged.

    Raises:
        ConfigError: naming it.
    """
    for path in NESTED:
        value: Any = settings
        for part in path.split("."):
            value = value.get(part, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table {path!r}, got {path}={value!r}")


def parse_assignment(text: str) -> tuple[str, Any]:
    """`--set train.lr=1e-3` as key and value; the value is JSON, or else a string.

    Raises:
        ConfigError: there is no `=`, or the key is no table's.
    """
    key, equals, value = text.partition("=")
    table, *rest = key.split(".")
    if not equals or table not in TABLES or not rest or not all(rest):
        raise ConfigError(
            f"--set: expected TABLE.KEY=VALUE with a table of {', '.join(TABLES)}, got {text!r}"
        )
    try:
        return key, files.from_json(value)
    except ValueError:
        return key, value


def layer(values: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Dotted keys and their values as one layer of settings, `{"train": {"lr": 1}}`.

    Raises:
        ConfigError: a plain value stands where a table belongs.
    """
    result: dict[str, Any] = {}
    for key, value in values:
        *path, last = key.split(".")
        table = result
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{where}: expected a table {part!r} for {key!r}, got {table!r}")
        table[last] = value
    check_tables(result, where)
    return result


def check_model(name: object) -> str:
    """The name of a model. Raises ConfigError, with the nearest one, if there is none such."""
    if not isinstance(name, str) or name not in presets():
        raise ConfigError(f"--model: unknown model {name!r} ({nearest(str(name), presets())})")
    return name


def name_of(core: Mapping[str, Any]) -> str:
    """The model's name on the command line for a core's fields, e.g. `irnn` for such an `rnn`."""
    fitting = [
        name
        for name, fields in presets().items()
        if all(core.get(key) == value for key, value in fields.items())
    ]
    return max(fitting, key=lambda name: len(presets()[name]), default=str(core.get("kind")))


def _chosen_model(
    flag: str | None, config: Mapping[str, Any], flags: Mapping[str, Any], task: str
) -> str:
    """The model's name: `--set model.core.kind`, the flag, the config's, the task's default."""
    core = config.get("model", {}).get("core", {})
    named = (
        flags.get("model", {}).get("core", {}).get("kind")
        or flag
        or (name_of(core) if "kind" in core else default_model(task))
    )
    return check_model(named)


def control_fields(wanted: str, kind: str, control: Control | None) -> dict[str, Any]:
    """The spec fields that a value of `--control` stands for; {} where there is nothing to say.

    Args:
        wanted: `auto`, `multi-level` or `flat`.
        kind: the cell's kind.
        control: the task's signal.

    Raises:
        ConfigError: multi-level where the cell or the task has no levels.
    """
    if wanted not in CONTROLS:
        raise ConfigError(f"--control: unknown value {wanted!r} ({nearest(wanted, CONTROLS)})")
    able = cells()[kind].Spec.levels
    if wanted == "flat" or (wanted == "auto" and control is None):
        return dict(FLAT) if able else {}
    if able and control is not None:
        return {
            "store": list(control.store),
            "wipe": control.wipe,
            "integrate": list(control.integrate),
        }
    if wanted == "auto":
        return {}
    lacking = f"the model {kind!r} has no store" if not able else "the task defines no levels"
    raise ConfigError(f"--control: expected flat because {lacking}, got control={wanted!r}")


def resolve(
    task: str,
    model: str | None,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    control: str | None,
    data_dir: Path | None,
    load: data.Load = data.load,
) -> Resolved:
    """Merge all layers, load the task, and check the whole.

    Args:
        task: the task's name.
        model: the model's name, or None.
        config: settings of `--config`, by table.
        flags: settings of FWT_* variables, flags and `--set`, merged in this order.
        control: `--control`, or None.
        data_dir: `--data-dir`.
        load: what loads the task; one with a memory saves reading its data again.

    Raises:
        ConfigError: an unknown name, key or value, with the nearest known one; or a model and a
            task that do not go together.
        DataError: the dataset asked for cannot be had.
    """
    asked = merge(config, flags)
    options = asked.get("task", {}) | {"kind": task}
    tasks.parse(options)  # refuses an unknown task before its recipe is looked for
    name = _chosen_model(model, config, flags, task)
    kind = kind_of(name)
    size = asked.get("model", {}).get("core", {}).get("size")
    label, settings = recipe(task, name, size if isinstance(size, int) else None)
    found = load(tasks.parse(merge(settings.get("task", {}), options)), data_dir)
    below = {key: config[key] for key in config if key != "task"}
    if control in ("multi-level", "flat"):  # said on the command line: above the config
        below = merge(below, {"model": {"core": control_fields(control, kind, found.control)}})
    given = merge(below, {key: flags[key] for key in flags if key != "task"})
    signal = control_fields(control or settings.get("control", "auto"), kind, found.control)
    core = {**presets()[name], **settings["core"], **signal, **_length(kind, found)}
    base = {
        "recipe": label,
        "model": {
            "encoder": _encoder(found, name),
            "core": core,
            "head": {"classes": found.shape.classes},
        },
        "train": settings["train"],
        "report": settings.get("report", {}),
    }
    merged = merge(base, given)
    merged["model"]["core"]["kind"] = kind
    merged["task"] = found.spec.json_data()
    init = merged.pop("init", None)
    spec = RunSpec.parse(merged, "settings")
    if init:
        spec = initial.begun_from(spec, init)
    return Resolved(spec, found)


def _length(kind: str, task: Task) -> dict[str, Any]:
    """The task's number of time steps, for a cell that has weights for each of them."""
    return {"steps": task.shape.steps} if cells()[kind].Spec.weighs_steps else {}


def _encoder(task: Task, name: str) -> dict[str, Any]:
    """The encoder that fits a task's inputs and the model of that name.

    Raises:
        ConfigError: the model sees pictures, and the task has none.
    """
    if cells()[kind_of(name)].Spec.pictures:
        if task.shape.symbols:
            raise ConfigError(
                f"--model: the model {name!r} expects a task of pictures, got "
                f"task={task.spec.kind!r}, whose inputs are symbols; take --task mnist-glimpse or "
                "another model"
            )
        return {"kind": "identity", "features": task.shape.features}
    if task.shape.symbols:
        return {"kind": "embedding", "symbols": task.shape.symbols}
    return {"kind": "linear", "features": task.shape.features}
