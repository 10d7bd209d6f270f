"""The backends: a lazy registry. No framework is imported before one is asked for by name."""

from __future__ import annotations

if __name__ == "backends":
    raise ImportError("backends: its import name is fwt.backends", name="backends")

import importlib
import importlib.util
from typing import TYPE_CHECKING

from fwt.fwcore.errors import BackendError, ConfigError, nearest

if TYPE_CHECKING:
    from fwt.backends.contract import Backend

# name -> (module, the package it needs, how to get it)
BACKENDS: dict[str, tuple[str, str, str]] = {
    "torch": ("fwt.backends.torch", "torch", "pip install torch"),
    "mlx": (
        "fwt.backends.mlx",
        "mlx.core",
        "pip install mlx (macOS), 'mlx[cpu]' or 'mlx[cuda13]' (Linux); there is none for Windows",
    ),
    "numpy": ("fwt.backends.numpy", "numpy", "pip install numpy"),
}

# the order in which `auto` looks for a backend that can train
TRAINING_ORDER = ("torch", "mlx")


def installed(name: str) -> bool:
    """Whether the package of a backend is there (it is not imported)."""
    package = BACKENDS[name][1]
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # a parent package that is missing, or does not start
        return False


def named(name: str) -> str:
    """A backend's own name; `auto` is the first of `TRAINING_ORDER` that is installed.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        return next((known for known in TRAINING_ORDER if installed(known)), "torch")
    if name not in BACKENDS:
        raise ConfigError(f"backend: unknown name {name!r} ({nearest(name, BACKENDS)})")
    return name


def load(name: str, precision: str = "highest") -> Backend:
    """A backend by name.

    Args:
        name: a key of `BACKENDS`, or `auto`; see `named`.
        precision: `highest` or `tf32`, see `TrainSpec.precision`. It holds for the process.

    Raises:
        ConfigError: an unknown name.
        BackendError: the package is missing or does not start, and what to install.
    """
    name = named(name)
    module, package, install = BACKENDS[name]
    if not installed(name):
        raise BackendError(f"backend {name}: package {package!r} is not installed; {install}")
    try:
        backend: Backend = importlib.import_module(module).load(precision)
    except ImportError as error:
        first_line = str(error).splitlines()[0]
        raise BackendError(f"backend {name}: {package!r} fails: {first_line}; {install}") from error
    return backend
