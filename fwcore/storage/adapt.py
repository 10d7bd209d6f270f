"""Weights that another program wrote, in our names and numbers, with a note of each change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.storage.dtypes import narrow, widen

# parts that wrappers of a torch model put into its names: parallel, averaged, compiled, sharded
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
LAYER = "_l0"  # what the names of a torch.nn layer end with; those of its cell do not
BIASES = ("bias", "bias_n", "bias_ih_l0", "bias_hh_l0", "b", "bhn")  # ends of names, all layouts


def adapt(
    table: Sequence[Param], given: Mapping[str, NumpyArray]
) -> tuple[dict[str, NumpyArray], tuple[str, ...]]:
    """Arrays by the names of a layout, those of 16 bits as float32.

    Args:
        table: the parameters in the layout of the file.
        given: the file's arrays by name.

    Returns:
        The arrays, and what was changed, one phrase each.
    """
    names = _plain_names({param.name for param in table}, given)
    found = {names[name]: widen(array) for name, array in given.items()}
    kinds = Counter(kind for array in given.values() if (kind := narrow(array.dtype)))
    notes = [
        f"{kind} read as float32: {count} of {len(given)} arrays" for kind, count in kinds.items()
    ]
    changed = [(name.split("."), plain) for name, plain in names.items() if name != plain]
    parts = Counter(part for name, _ in changed for part in WRAPPERS if part in name)
    notes += [
        f"{part!r} left out of names: {count} of {len(given)}" for part, count in parts.items()
    ]
    cells = [name for name, plain in changed if plain.endswith(LAYER) and LAYER not in name[-1]]
    if cells:
        notes.append(
            f"names of a torch.nn cell read as those of a layer: {len(cells)} of {len(given)}"
        )
    return found, tuple(notes)


def _plain_names(wanted: set[str], given: Mapping[str, NumpyArray]) -> dict[str, str]:
    """Each name of a file, and the one it stands for.

    A torch.nn cell has the weights of a layer. A name whose place is taken already stays.
    """
    result: dict[str, str] = {}
    used: set[str] = set()
    for name in given:
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain not in wanted and f"{plain}{LAYER}" in wanted:
            plain = f"{plain}{LAYER}"
        if plain != name and (plain in given or plain in used):
            plain = name
        used.add(plain)
        result[name] = plain
    return result


def missing_biases(
    table: Sequence[Param], given: Mapping[str, NumpyArray]
) -> dict[str, NumpyArray]:
    """Zeros for each bias of a table that a file has not, by name.

    A layer made with `bias=False` has none, and computes the same with zeros.
    """
    return {
        param.name: np.zeros(param.shape, np.float32)
        for param in table
        if param.name not in given and param.name.split(".")[-1] in BIASES
    }
