"""How much was searched before the recipes were what they are: `budget.toml` as a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources

from pydantic import Field

from fwcore.frozen import Frozen


class Budget(Frozen):
    """The search behind a task's recipes.

    Attributes:
        search: what was searched and how, in words.
        trials: model -> settings tried at each size.
    """

    search: str = ""
    trials: dict[str, int] = Field(default_factory=dict)

    def sentence(self, models: Iterable[str]) -> str:
        """Settings tried by each of the models."""
        counts = [
            f"{model} {self.trials[model]}" if model in self.trials else f"{model} not recorded"
            for model in models
        ]
        words = f"{self.search} " if self.search else ""
        return f"{words}Settings tried by each model at each R: {', '.join(counts)}."


def budget(task: str) -> Budget:
    """The budget of a task.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    source = resources.files("reproduce") / "budget.toml"
    found = tomllib.loads(source.read_text(encoding="utf-8"))
    return Budget.parse(found.get(task, {}), f"budget.toml: {task}")
