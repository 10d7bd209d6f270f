"""Recipes: the settings of each task and model that `fwt train` takes unless told otherwise.

A recipe is data, `recipes/<task>.toml`: what holds for every model, then `[models.NAME]`, then
`[models.NAME.sizes.R]`, each overriding the one before.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from fwt.tasks import TASKS


@cache
def _file(task: str) -> dict[str, Any]:
    source = resources.files("fwt.tasks") / "recipes" / f"{task}.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of settings as one, `high` winning key by key.

    A layer that gives `steps` or `epochs` takes both away from the layers below it.
    """
    result = dict(low)
    if {"steps", "epochs"} & high.keys():
        result = {key: value for key, value in low.items() if key not in ("steps", "epochs")}
    for key, value in high.items():
        below = result.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return result


def default_model(task: str) -> str:
    """The model of a task when none is named."""
    return str(_file(task)["model"])


def recipe(task: str, model: str, size: int | None) -> tuple[str, dict[str, Any]]:
    """The recipe of a task, model and size.

    Args:
        task: its name.
        model: a name of `fwt.fwcore.cells.presets()`.
        size: R; None takes the task's default size.

    Returns:
        The recipe's name and its settings: tables `core`, `train`, `report`, `task`, and `control`.
    """
    file = _file(task)
    chosen = file["models"].get(model, {})
    size = int(file["size"]) if size is None else size
    override = chosen.get("sizes", {}).get(str(size), {})
    own = {key: value for key, value in chosen.items() if key != "sizes"}
    settings = copy.deepcopy(merge(merge(file["all"], own), override))
    settings["core"] = {"size": size, **settings.get("core", {})}
    return f"{task}-{model}-R{size}", settings


def known() -> dict[str, list[str]]:
    """Task -> models that have settings of their own."""
    return {task: list(_file(task)["models"]) for task in TASKS}
