"""Names and axis orders of weights: the canonical ones, those of `torch.nn`, those of `mlx.nn`.

Canonical axis order is PyTorch's, written in each `Param.axes`; a convolution is O, I, H, W.
MLX keeps convolutions as O, H, W, I. What is permuted is decided by these letters and by key,
never by a shape. Cells that a framework has a layer of its own for also change names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param

LAYOUTS = ("fwt", "torch", "mlx")

# canonical axes -> the order in which the framework's own layers keep them, where it differs
NATIVE_AXES: dict[str, dict[str, str]] = {
    "fwt": {},
    "torch": {},
    "mlx": {"OIHW": "OHWI", "OIW": "OWI"},
}

# layout -> cell kind -> canonical name -> the name in the framework's own layer
NATIVE_NAMES: dict[str, dict[str, dict[str, str]]] = {
    "fwt": {},
    "torch": {
        kind: {"core.wx": "core.weight_ih_l0", "core.wh": "core.weight_hh_l0"}
        for kind in ("rnn", "lstm", "gru")
    },
    "mlx": {
        "rnn": {"core.wx": "core.Wxh", "core.wh": "core.Whh"},
        "lstm": {"core.wx": "core.Wx", "core.wh": "core.Wh"},
        "gru": {
            "core.wx": "core.Wx",
            "core.wh": "core.Wh",
            "core.bias": "core.b",
            "core.bias_n": "core.bhn",
        },
    },
}
# torch.nn's recurrent layers have two biases; only their sum acts, but for the GRU's last rows
TORCH_BIASES = ("core.bias_ih_l0", "core.bias_hh_l0")


def axes_in(param: Param, layout: str) -> str:
    """The axis letters of a parameter in the order in which a layout keeps them."""
    return NATIVE_AXES[layout].get(param.axes, param.axes)


def _places(order: str, wanted: str) -> tuple[int, ...]:
    """Where the letters of `wanted` stand in `order`."""
    return tuple(order.index(axis) for axis in wanted)


def _permuted(array: NumpyArray, order: str, wanted: str) -> NumpyArray:
    """`array`, whose axes are the letters of `order`, with its axes in the order `wanted`."""
    if order == wanted:
        return array
    return np.ascontiguousarray(array.transpose(_places(order, wanted)))


def turned(table: Sequence[Param], layout: str) -> dict[str, tuple[int, ...]]:
    """The parameters whose axes a layout keeps in another order, by name.

    Each with the axes of the layout's array in canonical order, as a `transpose` takes them.
    """
    return {
        param.name: _places(axes_in(param, layout), param.axes)
        for param in table
        if axes_in(param, layout) != param.axes
    }


def permute_out(param: Param, array: NumpyArray, layout: str) -> NumpyArray:
    """A canonical array with its axes as a layout keeps them."""
    return _permuted(array, param.axes, axes_in(param, layout))


def permute_in(param: Param, array: NumpyArray, layout: str) -> NumpyArray:
    """A layout's array with its axes in canonical order."""
    return _permuted(array, axes_in(param, layout), param.axes)


def table_in(table: Sequence[Param], kind: str, layout: str) -> list[Param]:
    """The parameters as a layout has them: what `export` gives, as names, shapes and axes.

    Args:
        table, kind, layout: see `export`.
    """
    names = _names(table, kind, layout)
    biases = {"core.bias": TORCH_BIASES, "core.bias_n": ()} if layout == "torch" and names else {}
    result = []
    for param in table:
        axes = axes_in(param, layout)
        shape = tuple(param.shape[place] for place in _places(param.axes, axes))
        for name in biases.get(param.name, (names.get(param.name, param.name),)):
            result.append(replace(param, name=name, shape=shape, axes=axes))
    return result


def export(
    table: Sequence[Param],
    kind: str,
    arrays: Mapping[str, NumpyArray],
    layout: str,
    moments: bool = False,
) -> dict[str, NumpyArray]:
    """Canonical arrays as a layout names and orders them.

    Args:
        table: the model's parameters.
        kind: the core's kind; a cell that the framework has no layer for keeps its names.
        arrays: by canonical name.
        layout: `fwt`, `torch` or `mlx`.
        moments: the arrays are an optimiser's moments, not weights.
    """
    names = _names(table, kind, layout)
    result = {
        names.get(param.name, param.name): permute_out(param, arrays[param.name], layout)
        for param in table
    }
    if layout == "torch" and names:
        _split_bias(result, moments)
    return result


def restore(
    table: Sequence[Param],
    kind: str,
    arrays: Mapping[str, NumpyArray],
    layout: str,
    moments: bool = False,
) -> dict[str, NumpyArray]:
    """The inverse of `export`, of arrays that fit `table_in`: canonical names and orders."""
    names = _names(table, kind, layout)
    found = dict(arrays)
    if layout == "torch" and names:
        _join_bias(found, any(param.name == "core.bias_n" for param in table), moments)
    return {
        param.name: permute_in(param, found[names.get(param.name, param.name)], layout)
        for param in table
    }


def _names(table: Sequence[Param], kind: str, layout: str) -> dict[str, str]:
    """Canonical -> native names of the core; none where the framework has no such layer."""
    normalised = any(param.name.startswith("core.norm") for param in table)
    return {} if normalised else NATIVE_NAMES[layout].get(kind, {})


def _split_bias(arrays: dict[str, NumpyArray], moments: bool) -> None:
    """One bias into the two of torch.nn: all in the first, zeros (and `bias_n`) in the second.

    Both have the same gradient, so a moment stands in both.
    """
    bias = arrays.pop("core.bias")
    other = bias.copy() if moments else np.zeros_like(bias)
    if "core.bias_n" in arrays:
        last = arrays.pop("core.bias_n")
        other[-len(last) :] = last
    arrays.update(zip(TORCH_BIASES, (bias, other), strict=True))


def _join_bias(arrays: dict[str, NumpyArray], keeps_last: bool, moments: bool) -> None:
    """The two biases of torch.nn into one: their sum, or a moment that both have.

    A zero second bias leaves the first bit for bit.
    """
    bias, other = (np.array(arrays.pop(name)) for name in TORCH_BIASES)
    if keeps_last:
        size = len(other) // 3
        arrays["core.bias_n"] = other[-size:].copy()
        other[-size:] = 0
    arrays["core.bias"] = bias if moments or not other.any() else bias + other
