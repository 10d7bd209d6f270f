"""What a shell completes: the values that options take, from the registries that know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

Completer = Callable[[str], list[str]]


def of(names: Callable[[], Iterable[str]]) -> Completer:
    """Completes to those of some names that begin with what was typed.

    Args:
        names: gives them; it is called when a shell asks, so that nothing else waits for imports.
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def several(names: Callable[[], Iterable[str]]) -> Completer:
    """The same for the last of a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        used = before.split(",")
        return [f"{before}{comma}{name}" for name in of(names)(last) if name not in used]

    return complete


def tasks() -> Iterable[str]:
    """Names of tasks."""
    from fwt.tasks import TASKS

    return TASKS


def models() -> Iterable[str]:
    """Names of models."""
    from fwt.fwcore.cells import presets

    return presets()


def backends() -> Iterable[str]:
    """Names of backends, and `auto`."""
    from fwt.backends import BACKENDS

    return ("auto", *BACKENDS)


def named_backends() -> Iterable[str]:
    """Names of backends alone."""
    from fwt.backends import BACKENDS

    return BACKENDS


def devices() -> Iterable[str]:
    """Kinds of devices; which of them are there is not asked, a framework would have to start."""
    return ("auto", "cpu", "gpu", "cuda", "mps")


def memories() -> Iterable[str]:
    """Forms of the fast memory."""
    from fwt.fwcore.memory import FORMS

    return FORMS


def controls() -> Iterable[str]:
    """Values of `--control`."""
    from fwt.settings import CONTROLS

    return CONTROLS


def policies() -> Iterable[str]:
    """Names of glimpse policies."""
    from fwt.tasks.glimpses import POLICIES

    return POLICIES


def datasets() -> Iterable[str]:
    """Names of datasets."""
    from fwt.tasks.sources import NAMES

    return NAMES


def splits() -> Iterable[str]:
    """Names of a task's splits."""
    from fwt.tasks.base import SPLITS

    return SPLITS


def layouts() -> Iterable[str]:
    """Names of layouts of weights."""
    from fwt.fwcore.storage.layouts import LAYOUTS

    return LAYOUTS


def training(field: str) -> Callable[[], Iterable[str]]:
    """The values of a field of `fwt.fwcore.spec.TrainSpec` that has few."""

    def values() -> Iterable[str]:
        from fwt.fwcore.spec import TrainSpec

        return get_args(TrainSpec.model_fields[field].annotation)

    return values


def norms() -> Iterable[str]:
    """Values of `--norm`, of all models."""
    from fwt.fwcore.cells import cells

    fields = [cell.Spec.model_fields.get("norm") for cell in cells().values()]
    return dict.fromkeys(name for each in fields if each for name in get_args(each.annotation))
