"""Cost against T and against R as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwt.bench.subjects import OURS, SUBJECTS
from fwt.bench.suite import OK, Row
from fwt.plots.canvas import legend_of_all, save, sheet
from fwt.plots.settings import defaults
from fwt.plots.styles import STYLES

AXES = {"steps": "T, time steps", "size": "R, hidden units"}
LETTERS = {"batch": "B", "steps": "T", "size": "R", "inner": "S"}
LABELS = {form: f"ours, {form}" for form in OURS}
STYLE = dict(zip(SUBJECTS, STYLES, strict=True))


def series(rows: Sequence[Row], axis: str) -> dict[tuple[int, ...], dict[str, list[Row]]]:
    """Training rows that differ in one size only: the other three -> subject -> rows in order.

    Args:
        rows: of a benchmark.
        axis: `steps` or `size`.
    """
    others = [name for name in LETTERS if name != axis]
    found: dict[tuple[int, ...], dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: int(row[axis])):
        if row["measure"] == "train" and row["status"] == OK:
            key = tuple(int(row[name]) for name in others)
            line = found.setdefault(key, {}).setdefault(row["subject"], [])
            if not line or line[-1][axis] != row[axis]:  # one may be in the grid and in --growth
                line.append(row)
    return {
        key: named
        for key, named in found.items()
        if len({row[axis] for line in named.values() for row in line}) > 1
    }


@defaults()
def draw(rows: Sequence[Row], axis: str, title: str, path: Path) -> bool:
    """A picture with one panel for each set of rows; False, and no file, where there is none."""
    panels = series(rows, axis)
    if not panels:
        return False
    others = [name for name in LETTERS if name != axis]
    figure, places = sheet(1, len(panels), (1.5 + 5 * len(panels), 4.5))
    for place, (key, named) in zip(places[0], panels.items(), strict=True):
        for subject, line in named.items():
            _line(place, subject, line, axis)
        label = ", ".join(
            f"{LETTERS[name]} = {value}" for name, value in zip(others, key, strict=True)
        )
        place.set(xscale="log", yscale="log", xlabel=AXES[axis], title=label)
        place.set_ylabel("ms a training step (median, bars: quartiles)")
        ticks = sorted({row[axis] for line in named.values() for row in line})
        place.set_xticks(ticks, [str(tick) for tick in ticks])
        place.minorticks_off()
        place.grid(color="0.85")
    legend_of_all(figure, places[0], loc="outside right upper")
    figure.suptitle(title)
    save(figure, path)
    return True


def _line(place: Any, subject: str, rows: list[Row], axis: str) -> None:
    middle = [row["median_ms"] for row in rows]
    below = [row["median_ms"] - row["q25_ms"] for row in rows]
    above = [row["q75_ms"] - row["median_ms"] for row in rows]
    place.errorbar(
        [row[axis] for row in rows],
        middle,
        yerr=[below, above],
        label=LABELS.get(subject, subject),
        **STYLE[subject].options,
        capsize=2,
    )


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of a result that its shapes allow.

    Raises:
        FileError: a file cannot be written.
    """
    place = result["environment"]
    rows = [*result["rows"], *(result["growth"] or {"rows": []})["rows"]]
    title = f"{place['backend']} {place['version']}, {place['device']} ({place['device_name']})"
    device = str(place["device"]).replace(":", "")
    written = []
    for axis, letter in (("steps", "t"), ("size", "r")):
        path = folder / f"cost-vs-{letter}-{place['backend']}-{device}.png"
        if draw(rows, axis, title, path):
            written.append(path)
    return written
