"""`fwt list`: the names that the other verbs take."""

from __future__ import annotations

import json

from fwt.cli import options


def names() -> dict[str, list[str]]:
    """Every kind of name -> the names, from the registries."""
    from fwt import backends, tasks
    from fwt.fwcore.cells import presets
    from fwt.fwcore.memory import FORMS
    from fwt.tasks.glimpses import POLICIES
    from fwt.tasks.recipe import known
    from fwt.tasks.sources import NAMES

    return {
        "tasks": list(tasks.TASKS),
        "models": list(presets()),
        "backends": list(backends.BACKENDS),
        "memory": list(FORMS),
        "policies": list(POLICIES),
        "datasets": list(NAMES),
        "recipes": [f"{task}-{model}" for task, models in known().items() for model in models],
    }


def show(as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """List tasks, models, backends, memory forms, policies, datasets and recipes."""
    found = names()
    if as_json:
        print(json.dumps(found))
        return
    for kind, members in found.items():
        print(f"{kind:<9} {', '.join(members)}")
