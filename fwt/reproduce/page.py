"""RESULTS.md, and the short tables of the README: stored runs and present recipes as Markdown.

`results.md` and `readme.md` beside this file are the templates. The text is a function of its
arguments alone, so that a test can tell when it is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import jinja2

from fwt.fwcore.frozen import leaves
from fwt.reproduce import search
from fwt.reproduce.cells import BACKENDS, PUBLISHED, Cell
from fwt.reproduce.curves import Figure, figures
from fwt.reproduce.summary import Record
from fwt.reproduce.tally import Tally, orders, percent, strangers, tallies
from fwt.sweep.summary import Group, Summary, Values

SOURCES = {
    "P": "Ba, Hinton, Mnih, Leibo, Ionescu 2016, arXiv 1610.06258",
    "W": "Wayman & Mathew 2017, a repetition of the paper's first table",
}
TITLES = {
    "retrieval": "Associative retrieval",
    "mnist-glimpse": "Multi-level glimpses of MNIST",
}
MORE_DATA = {  # an option of a task -> what it makes of the training split
    "renamings": "each string {0} times more under other letters and digits",
    "shift": "each image moved by up to {0} px in each direction too",
}
README_MARKS = ("<!-- written by fwt reproduce -->", "<!-- end of what fwt reproduce writes -->")


@dataclass(frozen=True)
class Chapter:
    """What the pages say of a task.

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

    @property
    def title(self) -> str:
        """What the task is called."""
        return TITLES[self.task]

    @property
    def sources(self) -> dict[str, str]:
        """Letter -> who published numbers."""
        return {letter: SOURCES[letter] for letter in PUBLISHED[self.task]}

    def published(self, cell: Cell) -> list[float | None]:
        """What each source has for a cell."""
        return [each.get(cell.model, {}).get(cell.size) for each in PUBLISHED[self.task].values()]

    def group(self, name: str) -> list[Tally]:
        """The cells of a group that are named or were run."""
        rows = tallies((cell for cell in self.cells if cell.group == name), self.records)
        return [tally for tally in rows if tally.cell.named or tally.records]

    @property
    def on_mlx(self) -> list[str]:
        """The cells that are run there without being asked for."""
        return [cell.name for cell in self.cells if cell.backend == "mlx" and cell.named]

    @property
    def more_data(self) -> dict[str, str]:
        """How the training data are made more -> the cells that train on them."""
        cells = [each for each in self.cells if (each.backend, each.group) == ("torch", "table")]
        who: dict[str, list[str]] = {}
        for cell, (option, text) in product(cells, MORE_DATA.items()):
            if cell.spec and (value := cell.spec.task.get(option)):
                who.setdefault(text.format(value), []).append(cell.name)
        return {
            text: "every model" if len(names) == len(cells) else ", ".join(names)
            for text, names in who.items()
        }

    @cached_property
    def _table(self) -> dict[tuple[str, int], Cell]:
        return {(cell.model, cell.size): cell for cell in self.cells if cell.group == "table"}

    def recipe(self, group: Group) -> Values:
        """What a recipe has for the settings that were chosen in a search."""
        return search.recipe(self._table[group.model, search.size_of(group)], group.chosen or {})

    @property
    def orders(self) -> list[tuple[int, str]]:
        """R, and our order of the models beside the paper's."""
        return orders(self.task, self.group("table"))

    @property
    def figures(self) -> list[Figure]:
        """The pictures."""
        return figures(self.task, self.cells, self.records)

    @property
    def ran(self) -> list[Record]:
        """Every run of the cells, each once."""
        records: list[Record] = []
        for name in ("table", "control", "harder"):
            more = [record for tally in self.group(name) for record in tally.records]
            records += [record for record in more if record not in records]
        return records

    @property
    def others(self) -> list[Record]:
        """Runs of settings that no recipe has, negative results among them."""
        return strangers(self.cells, self.records)

    def differences(self, record: Record) -> str:
        """Where the settings of a run differ from those of the recipe."""
        cell = self._table.get((record.model, record.size))
        if cell is None or cell.spec is None:
            return "no such cell"
        have, recipe = (
            dict(leaves({table: spec.json_data()[table] for table in ("task", "model", "train")}))
            for spec in (record.spec, cell.spec)
        )
        names = [name for name in {**have, **recipe} if name != "train.seed"]
        return ", ".join(
            f"{name} = {have.get(name, 'unset')} (recipe: {recipe.get(name, 'unset')})"
            for name in names
            if have.get(name) != recipe.get(name)
        )

    @property
    def sizes(self) -> list[int]:
        """All R of the table."""
        return sorted({tally.cell.size for tally in self.group("table")})

    @property
    def rows(self) -> dict[str, list[tuple[str, float]]]:
        """Model, and backend if it is not the first -> for each R our result and the paper's."""
        results: dict[tuple[str, str], dict[int, str]] = {}
        for tally in self.group("table"):
            row = results.setdefault((tally.cell.backend, tally.cell.model), {})
            row[tally.cell.size] = tally.result
        published = PUBLISHED[self.task]["P"]
        return {
            model if backend == BACKENDS[0] else f"{model}, {backend}": [
                (results[backend, model].get(size, "-"), published[model][size])
                for size in self.sizes
            ]
            for backend, model in sorted(results, key=lambda row: BACKENDS.index(row[0]))
        }


def page(chapters: Iterable[Chapter]) -> str:
    """RESULTS.md."""
    return _render("results.md", chapters)


def short_tables(chapters: Iterable[Chapter]) -> str:
    """The published tables with ours beside them, a row for each model, for the README."""
    return _render("readme.md", chapters)


def _render(name: str, chapters: Iterable[Chapter]) -> str:
    environment = jinja2.Environment(  # Markdown, of our own files: nothing to escape
        loader=jinja2.PackageLoader("fwt.reproduce", "."),
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "label": label,
        "best": search.best,
        "settings": search.settings,
    }
    return environment.get_template(name).render(chapters=list(chapters))


def count(number: int | None) -> str:
    """Such as `46,860`; nothing of None."""
    return "" if number is None else f"{number:,}"


def label(record: Record) -> str:
    """The model, and the options that set a run of it apart from those of the table."""
    core, task = record.spec.model.core.json_data(), record.spec.task
    more = [f"S = {core['inner_steps']}"] if core.get("inner_steps", 1) != 1 else []
    more += [f"K = {task['pairs']}"] if task.get("pairs", 4) != 4 else []
    return ", ".join([record.model, *more])


def rewrite(text: str, chapters: Iterable[Chapter]) -> str:
    """A text with what stands between `README_MARKS` written anew; unchanged if it has none."""
    first, last = README_MARKS
    if first not in text or last not in text:
        return text
    before, _, rest = text.partition(first)
    _, _, after = rest.partition(last)
    return f"{before}{first}\n{short_tables(chapters)}{last}{after}"
