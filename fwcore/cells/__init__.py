"""The cells: every module of this folder that defines `Spec` and `PRESETS` is one, found by name.

Adding a cell is adding one file here; the command line, the tests and the docs read this list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import cast

from fwt.fwcore.cells.base import Cell, CellSpec, Presets
from fwt.fwcore.errors import ConfigError, nearest


@cache
def cells() -> dict[str, Cell]:
    """All cells by kind (`fast-weights`, `rnn`, `lstm`, `gru`, ...)."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    some = [cast(Cell, module) for module in modules if hasattr(module, "PRESETS")]
    return {str(cell.Spec.model_fields["kind"].default): cell for cell in some}


def cell_of(spec: CellSpec) -> Cell:
    """The equations that belong to a spec."""
    return cells()[spec.kind]


def kind_of(model: str) -> str:
    """The kind of the cell that has a model's name on the command line among its presets."""
    return next(kind for kind, cell in cells().items() if model in cell.PRESETS)


def parse_core(data: object) -> object:
    """A core's spec from plain JSON data.

    Raises:
        ConfigError: for an unknown kind, key or value, with the nearest known name.
    """
    if not isinstance(data, Mapping):
        return data
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in cells():
        raise ConfigError(f"core.kind: unknown cell {kind!r} ({nearest(str(kind), cells())})")
    return cells()[kind].Spec.parse(data, "core")


def presets() -> Presets:
    """Model names of the command line -> the core's spec fields, `kind` included."""
    return {
        name: {"kind": kind, **fields}
        for kind, cell in cells().items()
        for name, fields in cell.PRESETS.items()
    }
