"""fwt: fast weights on MLX and PyTorch, from the shell and from Python.

    import fwt

    result = fwt.train("retrieval", size=20, backend="torch")
    model = fwt.load(result["run"], backend="mlx")
    model.predict("c9k8j3f1??c")

No framework is imported before one is asked for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The folders fwcore, backends, tasks and cli lie beside this one in a checkout. `fwt/` has links to
# them; a clone made without links finds them here.
if not Path(__file__).with_name("fwcore").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from fwt import tasks
    from fwt.api import checkpoints, convert, load, models, resume, train, verify
    from fwt.fwcore.errors import FwtError
    from fwt.model import Model

# name -> the module that has it, imported when it is first asked for; "" is the module itself
_PLACES = {
    **dict.fromkeys(
        ("load", "train", "resume", "verify", "convert", "models", "checkpoints"), "fwt.api"
    ),
    "Model": "fwt.model",
    "FwtError": "fwt.fwcore.errors",
    "tasks": "",
}

__all__ = [
    "FwtError",
    "Model",
    "checkpoints",
    "convert",
    "load",
    "models",
    "resume",
    "tasks",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fwt")
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'fwt' has no attribute {name!r}")
    if not place:
        return importlib.import_module(f"fwt.{name}")
    value = getattr(importlib.import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
