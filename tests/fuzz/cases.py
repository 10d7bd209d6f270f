"""The cases: which files a reader is given, a function of the seed, the reader and a number.

Hypothesis draws them, one at a time: a case has a seed of its own, made of these three, so that it
can be drawn again alone. Hypothesis tries the simplest example first, whatever the seed; of two
examples the second is drawn at random, and it is the case.

Now and then Hypothesis draws a constant that it finds in the modules that are loaded, those below
`tests/` left out. So that a case does not change with the product, nothing of the product may be
loaded where cases are drawn: this module and those it imports have none of it, and the readers run
in a process of their own (`judge`). Another release of Hypothesis may draw other cases.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.formats import damage_of
from tests.fuzz.tree import Tree

# reader -> how many of a hundred cases it gets, roughly
SHARES = {
    "tensors": 12, "model": 12, "checkpoint": 10, "layout-torch": 5, "layout-mlx": 5, "npz": 6,
    "pt": 3, "run": 5, "resume": 3, "spec": 9, "metrics": 4, "records": 4, "config-toml": 6,
    "config-json": 4, "sweep": 3, "images": 5, "known-images": 4, "npy": 4, "png": 4,
    "examples": 3, "command": 0.3,
}  # fmt: skip


def numbers(names: list[str] | None, cases: int) -> dict[str, range]:
    """The numbers of the cases of each reader, of all or of `names`; `cases` in all, or more."""
    chosen = {name: share for name, share in SHARES.items() if not names or name in names}
    total = sum(chosen.values())
    return {name: range(-int(-cases * share // total)) for name, share in chosen.items()}


def cases_of(sample: Tree) -> SearchStrategy[Tree]:
    """A reader's valid files, damaged; of a list of commands one is run on them."""
    if "command" not in sample:
        return damage_of(sample)
    files = {name: entry for name, entry in sample.items() if name != "command"}
    one = st.sampled_from([bytes([number]) for number in sample["command"]])
    return st.builds(lambda tree, command: {**tree, "command": command}, damage_of(files), one)


def draw(cases: SearchStrategy[Tree], name: str, start: int, number: int) -> Tree:
    """A case of a reader, of what `cases_of` gave.

    Args:
        cases: of the reader's sample.
        name: of the reader.
        start: the seed of all cases.
        number: of the case.
    """
    drawn: list[Tree] = []

    @seed(f"{start} {name} {number}")
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def keep(case: Tree) -> None:
        drawn.append(case)

    keep()
    return drawn[-1]
