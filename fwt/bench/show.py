"""The tables that a person sees: one for each measure and shape."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fwt.bench.suite import MEASURES, OK, Row

WIDTH = 118  # where stdout is no terminal

TITLES = {
    "train": "training step",
    "forward": "forward only",
    "stream": "one time step of one sequence",
    "memory": "peak memory of a training step",
}
TIME_COLUMNS = ("median ms", "± IQR", "n", "x LSTM", "naive x", "floor ms", "of floor", "first ms")
MEMORY_COLUMNS = ("peak MiB", "x LSTM", "naive x")


def console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def form_of(row: Row) -> str:
    """The form or kernel that ran, e.g. `fused (numba)`."""
    memory, kernel = row["memory"], row["kernel"]
    if memory in (None, "none"):
        return ""
    return str(memory) if str(kernel or "none").startswith("none") else f"{memory} ({kernel})"


def number(value: float | None, form: str = ".3g") -> str:
    """A number for a cell; nothing where there is none."""
    return "" if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share in percent; nothing where there is none."""
    return "" if share is None else f"{100 * share:.{0 if share >= 0.1 else 1}f}%"


def cells(row: Row) -> list[str]:
    """A row's numbers in the order of its columns."""
    if row["measure"] == "memory":
        size = None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20
        return [number(size, ".4g"), number(row["to_lstm"]), number(row["naive_to"])]
    return [
        *(number(row[key]) for key in ("median_ms", "iqr_ms", "n", "to_lstm", "naive_to")),
        number(row["floor_ms"]),
        percent(row["of_floor"]),
        number(row["first_ms"]),
    ]


def table(rows: Sequence[Row]) -> Table:
    """The rows of one measure and shape."""
    first = rows[0]
    columns = MEMORY_COLUMNS if first["measure"] == "memory" else TIME_COLUMNS
    place = f"R={first['size']} S={first['inner']}"
    if first["measure"] != "stream":
        place = f"B={first['batch']} T={first['steps']} {place}"
    made = Table(title=f"{TITLES[first['measure']]}, {place}", title_justify="left")
    for name in ("subject", "form"):
        made.add_column(name, no_wrap=True)
    for name in columns:
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row["status"] == OK:
            made.add_row(row["subject"], form_of(row), *cells(row))
        else:
            made.add_row(row["subject"], Text(row["status"]))
    return made


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one measure and shape together, measures in order."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for measure in MEASURES:
        for row in rows:
            if row["measure"] == measure:
                key = (measure, row["batch"], row["steps"], row["size"], row["inner"])
                found.setdefault(key, []).append(row)
    return list(found.values())


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why subjects have no number, each reason once."""
    return list(
        dict.fromkeys(
            f"{row['subject']} at {row['batch']},{row['steps']},{row['size']},{row['inner']} "
            f"{row['status']}: {row['reason']}"
            for row in rows
            if row["status"] != OK
        )
    )


def show(result: dict[str, Any]) -> None:
    """Everything of a result on stdout."""
    out = console()
    place = result["environment"]
    ceiling = result["ceilings"]
    threads = "" if place["threads"] is None else f", {place['threads']} threads"
    out.print(
        f"{place['backend']} {place['version']} on {place['device']} ({place['device_name']}"
        f"{threads}), float32; ceilings {ceiling['operations_per_s'] / 1e9:.1f} GFLOP/s, "
        f"{ceiling['bytes_per_s'] / 1e9:.1f} GB/s",
        highlight=False,
    )
    rows = [*result["rows"], *(result["growth"] or {"rows": []})["rows"]]
    for group in groups(rows):
        out.print(table(group))
    for text in reasons(rows):
        out.print(text, highlight=False, soft_wrap=True)
    for fit in (result["growth"] or {"fits": []})["fits"]:
        value = number(fit["exponent"], ".2f") or "not known"
        out.print(
            f"{fit['subject']} {fit['measure']} grows as T^{value} over T = {fit['steps']}",
            highlight=False,
        )
    if result["loop"]:
        told = result["loop"]
        out.print(
            f"training loop {told['loop_examples_per_s']:,.0f} examples/s, bare step "
            f"{told['bare_examples_per_s']:,.0f}: ratio {told['ratio']:.3f} (n={told['n']})",
            highlight=False,
        )
    if result["population"]:
        told = result["population"]
        out.print(
            f"{told['members']} models at once {told['times']['together']['median_ms']:.2f} ms a "
            f"step: {told['to_in_turn']:.2f} x one after another, {told['to_one']:.2f} x one alone",
            highlight=False,
        )
