"""How the settings of the recipes were searched: the stored results of a sweep, as a table.

The sweep files are `reproduce/search/<task>.toml`. They give every model and size the same number
of settings, drawn from the same space and trained for the same short time, and judge them on the
validation split. `make search` runs them and stores what they found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fwcore.errors import FileError
from sweeps import summary
from sweeps.summary import Group, Summary, Values


def path_of(root: Path, task: str) -> Path:
    """Where the results of a task's search are kept below a folder."""
    return root / "benchmarks" / "results" / f"search-{task}.json"


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


def lines(found: Summary | None, task: str) -> list[str]:
    """The search as Markdown: what was the same for all, and what each model and size found."""
    if found is None:
        return ["A search with the same budget for every model was not run."]
    base = ", ".join(f"{key} = {value}" for key, value in found.base.items())
    rows = [_row(group) for group in found.groups]
    return [
        f"Every model and size was given the same search ({found.sampler}, {found.budget} settings "
        f"each, {found.seeds} seed{'s' if found.seeds > 1 else ''}, {base}; "
        f"`fwt sweep reproduce/search/{task}.toml`), judged on the validation split after that "
        "short training. Recipes take over what it found, with longer training.",
        "",
        "| model | R | settings tried | best validation error | with |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _row(group: Group) -> str:
    size = group.fixed.get("size", "")
    errors = [trial.val_error_pct for trial in group.trials if trial.val_error_pct is not None]
    best = f"{min(errors):.2f}" if errors else "none"
    return f"| {group.model} | {size} | {group.tried} | {best} | {_told(group.chosen)} |"


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
