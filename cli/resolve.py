"""From layers of settings to one run: defaults < recipe < --config < environment < flags."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from fwcore.cells import cells, presets
from fwcore.errors import ConfigError, FileError, nearest
from fwcore.spec import RunSpec
from tasks.base import Control, Task
from tasks.recipe import default_model, merge, recipe

CONTROLS = ("auto", "multi-level", "flat")
TABLES = ("task", "model", "train", "report")
NAMES = ("format_version", "recipe")  # further top-level keys of a spec.json; taken as they are


@dataclass(frozen=True)
class Resolved:
    """A run ready to start: its spec, the model's name, and the task with its data at hand."""

    spec: RunSpec
    name: str
    task: Task


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a TOML or JSON file laid out like a run's `spec.json`.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is not TOML or JSON, or has an unknown table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"config: {path} cannot be read: {error}") from error
    try:
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"config: {path} is not {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"config: {path}: expected tables, got {type(found).__name__}")
    for key in found:
        if key not in (*TABLES, *NAMES):
            raise ConfigError(f"config: {path}: unknown key {key!r} ({nearest(key, TABLES)})")
    return {key: value for key, value in found.items() if key in TABLES}


def parse_assignment(text: str) -> dict[str, Any]:
    """`--set train.lr=1e-3` as nested settings; the value is JSON, or else a string.

    Raises:
        ConfigError: there is no `=`, or the first part of the key is no table.
    """
    key, equals, value = text.partition("=")
    if not equals or key.split(".")[0] not in TABLES:
        raise ConfigError(
            f"--set: expected TABLE.KEY=VALUE with a table of {', '.join(TABLES)}, got {text!r}"
        )
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return nested(key, parsed)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`("train.lr", 1)` as `{"train": {"lr": 1}}`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def _model_name(flag: str | None, config: Mapping[str, Any], task: str) -> str:
    """The model's name: the flag, else the config's cell, else the task's default."""
    named = flag or config.get("model", {}).get("core", {}).get("kind") or default_model(task)
    if named not in presets():
        raise ConfigError(f"--model: unknown model {named!r} ({nearest(str(named), presets())})")
    return str(named)


def _control(wanted: str, asked: bool, kind: str, control: Control | None) -> dict[str, Any]:
    """The spec fields of the multi-level control signal, {} for a flat memory."""
    if wanted not in CONTROLS:
        raise ConfigError(f"--control: unknown value {wanted!r} ({nearest(wanted, CONTROLS)})")
    able = "store" in cells()[kind].Spec.model_fields
    if wanted == "flat" or (wanted == "auto" and not (able and control)):
        return {}
    if not able or control is None:
        lacking = f"the model {kind!r} has no store" if not able else "the task defines no levels"
        raise ConfigError(f"--control: expected flat because {lacking}, got control={wanted!r}")
    return {
        "store": list(control.store),
        "wipe": control.wipe,
        "integrate": list(control.integrate),
    }


def resolve(
    task: str,
    model: str | None,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    control: str | None,
    data_dir: Path | None,
) -> Resolved:
    """Merge all layers, load the task, and check the whole.

    Args:
        task: the task's name.
        model: the model's name, or None.
        config: settings of `--config`.
        flags: settings of flags, environment and `--set`, by table.
        control: `--control`, or None.
        data_dir: `--data-dir`.

    Raises:
        ConfigError: an unknown name, key or value, with the nearest known one.
        DataError: the dataset asked for cannot be had.
    """
    options = merge({"kind": task}, merge(config.get("task", {}), flags.get("task", {})))
    found = tasks.load(tasks.parse(options), data_dir)
    name = _model_name(model, config, task)
    given = merge({key: config[key] for key in config if key != "task"}, flags)
    size = given.get("model", {}).get("core", {}).get("size")
    label, settings = recipe(task, name, size if isinstance(size, int) else None)
    kind = presets()[name]["kind"]
    signal = _control(
        control or settings.get("control", "auto"), control is not None, kind, found.control
    )
    shape = found.shape
    encoder = (
        {"kind": "embedding", "symbols": shape.symbols}
        if shape.symbols
        else {"kind": "linear", "features": shape.features}
    )
    base = {
        "recipe": label,
        "model": {
            "encoder": encoder,
            "core": {**presets()[name], **settings["core"], **signal},
            "head": {"classes": shape.classes},
        },
        "train": settings["train"],
        "report": settings.get("report", {}),
    }
    merged = merge(base, {key: value for key, value in given.items() if key != "task"})
    merged["model"]["core"]["kind"] = kind
    merged["task"] = found.spec.json_data()
    return Resolved(RunSpec.parse(merged, "settings"), name, found)
