"""How the settings of the recipes were searched: the stored results of a sweep, as a table.

The sweep files are `fwt/reproduce/search/<task>.toml`. They give every model and size the same
number of settings, drawn from the same space and trained for the same short time, and judge them on
the validation split. `make search` runs them and stores what they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    found = summary.read_file(path)
    if found.task != task:
        raise FileError(f"{path}: expected the search of {task}, got task={found.task!r}")
    return found


def lines(found: Summary | None, task: str, cells: Sequence[Cell]) -> list[str]:
    """The search as Markdown: what was the same for all, what each model and size found, and what
    the recipe of each has in the end.

    Args:
        cells: those of the task; the settings of the ones in its table are the recipes'.
    """
    if found is None:
        return ["A search with the same budget for every model was not run."]
    base = ", ".join(f"{key} = {value}" for key, value in found.base.items())
    recipes = {(cell.model, cell.size): cell for cell in cells if cell.group == "table"}
    rows = [_row(group, recipes[group.model, _size(group)]) for group in found.groups]
    return [
        f"Every model and size was given the same search ({found.sampler}, {found.budget} settings "
        f"each, {found.seeds} seed{'s' if found.seeds > 1 else ''}, {base}; "
        f"`fwt sweep fwt/reproduce/search/{task}.toml`), judged on the validation split after that "
        "short training. Where a recipe has other values, and for its data and passes, longer runs "
        "decided, on the validation split too; not every model had as many of them. Those that "
        "ended stand in the last table.",
        "",
        "| model | R | settings tried | best validation error | with | recipe |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _size(group: Group) -> int:
    return int(str(group.fixed["size"]))


def _row(group: Group, cell: Cell) -> str:
    errors = [trial.val_error_pct for trial in group.trials if trial.val_error_pct is not None]
    best = f"{min(errors):.2f}" if errors else "none"
    told = _told(group.chosen), _told(_recipe(cell, group.chosen or {}))
    return f"| {group.model} | {_size(group)} | {group.tried} | {best} | {' | '.join(told)} |"


def _recipe(cell: Cell, names: Iterable[str]) -> Values:
    """What a recipe has for some settings of its training, named as in the sweep file."""
    if cell.spec is None:
        return {}
    train = cell.spec.train.json_data()
    return {name: train[name.removeprefix("train.")] for name in names}


def _told(values: Values | None) -> str:
    """Settings such as `lr = 0.0021, clip = 1.0`, without the tables they stand in."""
    given: Iterable[tuple[str, object]] = (values or {}).items()
    short = [
        f"{key.rpartition('.')[2]} = {value:.3g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]} = {value}"
        for key, value in given
    ]
    return ", ".join(short)
