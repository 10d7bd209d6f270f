"""How the settings of the recipes were searched: the stored results of a sweep.

The sweep files are `fwt/reproduce/search/<task>.toml`. They give every model and size the same
number of settings, drawn from the same space and trained for the same short time, and judge them on
the validation split. `make search` runs them and stores what they found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fwt.fwcore.errors import FileError
from fwt.reproduce.cells import Cell
from fwt.sweep import summary
from fwt.sweep.summary import Group, Summary, Values


def path_of(root: Path, task: str) -> Path:
    """Where the results of a task's search are kept below a folder."""
    return root / "results" / f"search-{task}.json"


def load(root: Path, task: str) -> Summary | None:
    """What the search of a task found; None if it was not run.

    Raises:
        FileError: the file is damaged, or of another task.
    """
    path = path_of(root, task)
    if not path.exists():
        return None
    results = summary.read_file(path)
    if results.task != task:
        raise FileError(f"{path}: expected the search of {task}, got task={results.task!r}")
    return results


def size_of(group: Group) -> int:
    """R of what was searched."""
    return int(str(group.fixed["size"]))


def best(group: Group) -> str:
    """The least validation error of a group's trials."""
    errors = [trial.val_error_pct for trial in group.trials if trial.val_error_pct is not None]
    return f"{min(errors):.2f}" if errors else "none"


def recipe(cell: Cell, names: Iterable[str]) -> Values:
    """What a recipe has for some settings of its training, named as in the sweep file."""
    if cell.spec is None:
        return {}
    train = cell.spec.train.json_data()
    return {name: train[name.removeprefix("train.")] for name in names}


def settings(values: Values | None) -> str:
    """Such as `lr = 0.0021, clip = 1.0`, without the tables they stand in."""
    return ", ".join(
        f"{key.rpartition('.')[2]} = {f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in (values or {}).items()
    )
