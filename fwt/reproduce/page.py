"""RESULTS.md, and the short tables of the README: stored runs and present recipes as Markdown.

The text is a function of its arguments alone, so that a test can tell when it is stale.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fwt.reproduce import search
from fwt.reproduce.cells import BACKENDS, PUBLISHED, Cell
from fwt.reproduce.curves import figures
from fwt.reproduce.summary import Record
from fwt.reproduce.tally import Tally, digits, order_sentence, strangers, tallies
from fwt.sweep.summary import Summary

NOT_RUN = "not run"
SOURCES = {
    "P": "Ba, Hinton, Mnih, Leibo, Ionescu 2016, arXiv 1610.06258",
    "W": "Wayman & Mathew 2017, a repetition of the paper's first table",
}
TITLES = {
    "retrieval": "Associative retrieval",
    "mnist-glimpse": "Multi-level glimpses of MNIST",
}
README_MARKS = ("<!-- written by fwt reproduce -->", "<!-- end of what fwt reproduce writes -->")

INTRODUCTION = """# Results

Written by `fwt reproduce` from the stored runs in `results/` and the present recipes in
`tasks/recipes/`; never by hand. Test errors are in percent. *Ours* is mean ± standard deviation
(n - 1) over seeds, with the number of seeds in brackets; errors of ours below 0.1 have a third
digit, as one of 20,000 strings is 0.005. A cell says "not run" when no stored run has the settings
of the present recipe; runs of other settings stay, in the last table of each task.

Settings were chosen, and the checkpoint of each run picked, on the validation split. The test split
was looked at once, at the end of a run. Minutes are those of training, its share for a run that
trained together with others, on machines that may have had other work to do.
`fwt reproduce TASK --model M --size R` runs a cell again.
"""

OVERVIEW = (
    "| model | R | {published} | ours | each seed | backend, device | parameters | updates "
    "| minutes | command |"
)
RUNS = (
    "| model | R | seed | backend, device | test | validation | best at | updates | minutes "
    "| commit | made with |"
)


@dataclass(frozen=True)
class Chapter:
    """What the page says of a task.

    Attributes:
        task: its name.
        cells: all of its cells.
        records: all of its stored runs.
        search: what the search behind its recipes found, if it was run.
    """

    task: str
    cells: Sequence[Cell]
    records: Sequence[Record]
    search: Summary | None

    def tallied(self, group: str) -> list[Tally]:
        """The cells of a group that are named or were run."""
        found = tallies((cell for cell in self.cells if cell.group == group), self.records)
        return [tally for tally in found if tally.cell.named or tally.records]


def page(chapters: Iterable[Chapter]) -> str:
    """RESULTS.md."""
    return "\n".join([INTRODUCTION, *(line for each in chapters for line in _chapter(each))])


def _chapter(chapter: Chapter) -> list[str]:
    table = chapter.tallied("table")
    lines = [f"## {TITLES[chapter.task]}", "", *_sources(chapter.task), ""]
    lines += [*overview(chapter.task, table), "", _mlx_note(chapter), *_more_data(chapter), ""]
    lines += ["### Search", "", *search.lines(chapter.search, chapter.task, chapter.cells), ""]
    lines += ["### Order of the models", "", *order_lines(chapter.task, table), ""]
    for figure in figures(chapter.task, chapter.cells, chapter.records):
        lines += [f"### {figure.title}", ""]
        if figure.group != "table":
            lines += [*_group_table(figure.group, chapter.tallied(figure.group)), ""]
        if figure.drawn:
            lines += [f"![{figure.title}](docs/figures/{figure.file})", ""]
        lines += [figure.caption, ""]
    ran = [record for tally in table for record in tally.records]
    ran += [record for record in _beside(chapter) if record not in ran]
    lines += ["### Every run", "", *_runs(ran), ""]
    others = strangers(chapter.cells, chapter.records)
    lines += ["### Other settings that were run", "", *_others(chapter.cells, others), ""]
    return lines


def _sources(task: str) -> list[str]:
    return [
        f"Published: {'; '.join(f'[{letter}] {SOURCES[letter]}' for letter in PUBLISHED[task])}."
    ]


def _mlx_note(chapter: Chapter) -> str:
    named = [cell for cell in chapter.cells if cell.backend == "mlx" and cell.named]
    names = ", ".join(cell.name for cell in named)
    return f"On MLX only these cells are run, with one seed, as rows of their own: {names}."


MORE_DATA = {  # an option of a task -> what it makes of the training split
    "renamings": "each string {0} times more under other letters and digits",
    "shift": "each image moved by up to {0} px in each direction too",
}


def _more_data(chapter: Chapter) -> list[str]:
    """Which cells train on more than the data as they are."""
    cells = [each for each in chapter.cells if each.backend == "torch" and each.group == "table"]
    found: dict[str, list[str]] = {}
    for cell, (option, text) in product(cells, MORE_DATA.items()):
        if cell.spec and (value := cell.spec.task.get(option)):
            found.setdefault(text.format(value), []).append(cell.name)
    return [
        f"Training data: {text}, for "
        f"{'every model' if len(names) == len(cells) else ', '.join(names)}."
        for text, names in found.items()
    ]


def overview(task: str, found: Sequence[Tally]) -> list[str]:
    """The table of published numbers and ours."""
    letters = list(PUBLISHED[task])
    head = OVERVIEW.format(published=" | ".join(f"published [{letter}]" for letter in letters))
    return [head, _rule(head), *(_overview_row(tally, letters) for tally in found)]


def _rule(head: str) -> str:
    return "|" + "---|" * (head.count("|") - 1)


def _row(values: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _overview_row(tally: Tally, letters: Sequence[str]) -> str:
    cell, records = tally.cell, tally.records
    known = [PUBLISHED[cell.task][letter].get(cell.model, {}).get(cell.size) for letter in letters]
    published = ["-" if error is None else f"{error:.2f}" for error in known]
    if not records:
        return _row([cell.model, cell.size, *published, NOT_RUN, "", cell.backend, *[""] * 3,
                     _command(cell)])  # fmt: skip
    done = [record for record in records if record.test_error_pct is not None]
    return _row(
        [
            cell.model,
            cell.size,
            *published,
            result(tally),
            ", ".join(_seed(record) for record in records),
            _places(records),
            f"{records[0].parameters:,}",
            f"{max(record.steps for record in records):,}",
            f"{statistics.fmean(r.minutes for r in done):.1f}" if done else "",
            _command(cell),
        ]
    )


def result(tally: Tally) -> str:
    """Such as `1.27 ± 0.81 (3)`."""
    if tally.mean is None:
        return "diverged" if tally.records else NOT_RUN
    middle = digits(tally.mean)
    sd = "" if tally.sd is None else f" ± {tally.sd:.{len(middle.partition('.')[2])}f}"
    lost = len(tally.records) - len(tally.errors)
    return f"{middle}{sd} ({len(tally.errors)}{f', {lost} diverged' if lost else ''})"


def percent(record: Record) -> str:
    """A run's test error, or that it diverged."""
    return _percent(record.test_error_pct)


def _percent(error: float | None) -> str:
    return "diverged" if error is None else digits(error)


def _seed(record: Record) -> str:
    return f"s{record.seed} {percent(record)}"


def _places(records: Sequence[Record]) -> str:
    devices = dict.fromkeys(record.device for record in records)
    return f"{records[0].backend}, {' and '.join(devices)}"


def _command(cell: Cell) -> str:
    on = "" if cell.backend == BACKENDS[0] else f" --backend {cell.backend}"
    return f"`fwt reproduce {cell.task} --model {cell.model} --size {cell.size}{on}`"


def order_lines(task: str, found: Sequence[Tally]) -> list[str]:
    """A line for each R: our order of the models beside the paper's, on the first backend."""
    published = PUBLISHED[task]["P"]
    lines = []
    for size in sorted({tally.cell.size for tally in found}):
        here = [t for t in found if t.cell.size == size and t.cell.backend == BACKENDS[0]]
        errors = {tally.cell.model: tally.errors for tally in here}
        known = {model: errors[size] for model, errors in published.items() if size in errors}
        lines.append(f"- R = {size}. {order_sentence(known, errors)}")
    return lines


def _group_table(group: str, found: Sequence[Tally]) -> list[str]:
    """The table of a group that has no published numbers."""
    head = "| what | R | ours | each seed | backend, device | parameters | updates |"
    if group == "harder":
        head = "| model | R | K | ours | backend, device | parameters | updates |"
    rows = []
    for tally in found:
        cell, ran = tally.cell, tally.records
        each = ", ".join(_seed(record) for record in ran)
        start = [cell.label, cell.size]
        own = [cell.pairs, result(tally)] if group == "harder" else [result(tally), each]
        place = _places(ran) if ran else cell.backend
        counts = [f"{ran[0].parameters:,}", f"{ran[0].steps:,}"] if ran else ["", ""]
        rows.append(_row([*start, *own, place, *counts]))
    return [head, _rule(head), *rows]


def _beside(chapter: Chapter) -> list[Record]:
    return [
        record
        for group in ("control", "harder")
        for tally in chapter.tallied(group)
        for record in tally.records
    ]


def _label(record: Record) -> str:
    """The model, and the options that set a run of it apart from those of the table."""
    core, task = record.spec.model.core.json_data(), record.spec.task
    more = [f"S = {core['inner_steps']}"] if core.get("inner_steps", 1) != 1 else []
    more += [f"K = {task['pairs']}"] if task.get("pairs", 4) != 4 else []
    return ", ".join([record.model, *more])


def _runs(records: Sequence[Record]) -> list[str]:
    """Every run of the cells above."""
    if not records:
        return ["None yet."]
    rows = [
        _row(
            [
                _label(record),
                record.size,
                record.seed,
                _machine(record),
                _percent(record.test_error_pct),
                _percent(record.val_error_pct),
                "" if record.best_step is None else f"{record.best_step:,}",
                f"{record.steps:,}",
                f"{record.minutes:.1f}",
                record.commit or "",
                ", ".join(f"{name} {value}" for name, value in record.versions.items()),
            ]
        )
        for record in records
    ]
    return [RUNS, _rule(RUNS), *rows]


def _machine(record: Record) -> str:
    how = ", ".join(filter(None, (record.device, record.processor)))
    return f"{record.backend}, {how}"


def _others(cells: Sequence[Cell], records: Sequence[Record]) -> list[str]:
    """Runs of settings that no recipe has, negative results among them."""
    if not records:
        return ["None."]
    table = {(cell.model, cell.size): cell for cell in cells if cell.group == "table"}
    head = "| model | R | seed | backend, device | test | what differs from the recipe | commit |"
    rows = [
        _row(
            [
                record.model,
                record.size,
                record.seed,
                _places([record]),
                _percent(record.test_error_pct),
                _differences(record, table.get((record.model, record.size))),
                record.commit or "",
            ]
        )
        for record in records
    ]
    return [head, _rule(head), *rows]


def _differences(record: Record, cell: Cell | None) -> str:
    """Where the settings of a run differ from those of a cell."""
    if cell is None or cell.spec is None:
        return "no such cell"
    have, recipe = (
        {path: value for table in ("task", "model", "train") for path, value in
         _leaves(spec.json_data()[table], table)}
        for spec in (record.spec, cell.spec)
    )  # fmt: skip
    names = [name for name in {**have, **recipe} if name != "train.seed"]
    return ", ".join(
        f"{name} = {have.get(name, 'unset')} (recipe: {recipe.get(name, 'unset')})"
        for name in names
        if have.get(name) != recipe.get(name)
    )


def _leaves(table: Mapping[str, Any], at: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}.{key}")
        else:
            yield f"{at}.{key}", value


def short_tables(chapters: Iterable[Chapter]) -> list[str]:
    """The published tables with ours beside them, a row for each model, for the README."""
    found = []
    for chapter in chapters:
        found += [f"{TITLES[chapter.task]}:", "", *_short_table(chapter.tallied("table")), ""]
    return found[:-1]


def _short_table(found: Sequence[Tally]) -> list[str]:
    sizes = sorted({tally.cell.size for tally in found})
    head = f"| model | {' | '.join(f'R = {size} | [P]' for size in sizes)} |"
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for tally in found:
        rows.setdefault((tally.cell.backend, tally.cell.model), {})[tally.cell.size] = result(tally)
    lines = [head, _rule(head)]
    for backend, model in sorted(rows, key=lambda row: BACKENDS.index(row[0])):
        published = PUBLISHED[found[0].cell.task]["P"][model]
        ours = rows[backend, model]
        pairs = [(ours.get(size, "-"), f"{published[size]:.2f}") for size in sizes]
        name = model if backend == BACKENDS[0] else f"{model}, {backend}"
        lines.append(_row([name, *(text for pair in pairs for text in pair)]))
    return lines


def marked(text: str, chapters: Iterable[Chapter]) -> str:
    """A text with what stands between `README_MARKS` written anew; unchanged if it has none."""
    first, last = README_MARKS
    if first not in text or last not in text:
        return text
    before, _, rest = text.partition(first)
    _, _, after = rest.partition(last)
    tables = "\n".join(short_tables(chapters))
    return f"{before}{first}\n{tables}\n{last}{after}"
