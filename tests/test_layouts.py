"""Layouts: axes go as their letters say, names as the frameworks have them, and no bit is lost."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from fwt.fwcore import model, params
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param
from fwt.fwcore.storage import layouts
from tests import cases

ZERO = params.constant(0.0)


def param(name: str, shape: tuple[int, ...], axes: str) -> Param:
    return Param(name, shape, axes, ZERO)


TABLE = [
    param("conv.weight", (3, 2, 4, 5), "OIHW"),
    param("one.weight", (3, 2, 1, 1), "OIHW"),  # a 1x1 kernel: no shape tells O, I, H and W apart
    param("square.weight", (4, 4, 3, 3), "OIHW"),  # I = O, H = W
    param("cube.weight", (2, 2, 2, 2), "OIHW"),
    param("conv1d.weight", (3, 2, 5), "OIW"),
    param("cube1d.weight", (3, 3, 3), "OIW"),
    param("dense.weight", (4, 4), "OI"),
    param("plain.weight", (2, 2, 2, 2), "NABC"),  # four axes, but not those of a convolution
    param("conv.bias", (3,), "O"),
    param("table.weight", (5, 3), "NU"),
    param("scale", (), ""),
]
KIND = "convnet"  # a core for which no framework has a layer of its own


def numbered(table: list[Param] = TABLE) -> dict[str, NumpyArray]:
    """Every entry of every array another number; one bias is -0.0."""
    found = {}
    for place, entry in enumerate(table):
        count = int(np.prod(entry.shape, dtype=int))
        array = (np.arange(count, dtype=np.float32) + 1000 * place + 1).reshape(entry.shape)
        found[entry.name] = array
    for name, array in found.items():
        if name.endswith("bias"):
            array[..., 0] = -0.0
    return found


def bits(arrays: dict[str, NumpyArray]) -> dict[str, tuple[bytes, tuple[int, ...], str]]:
    return {n: (a.tobytes(), a.shape, a.dtype.str) for n, a in arrays.items()}


# --- axes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "one", "square", "cube"])
def test_a_kernel_goes_to_mlx_as_output_height_width_input(name: str) -> None:
    want = numbered()[f"{name}.weight"]
    got = layouts.export(TABLE, KIND, numbered(), "mlx")[f"{name}.weight"]
    outs, ins, height, width = want.shape
    assert got.shape == (outs, height, width, ins)
    for o, i, h, w in product(range(outs), range(ins), range(height), range(width)):
        assert got[o, h, w, i] == want[o, i, h, w]


@pytest.mark.parametrize("name", ["conv1d", "cube1d"])
def test_a_line_kernel_goes_to_mlx_as_output_width_input(name: str) -> None:
    want = numbered()[f"{name}.weight"]
    got = layouts.export(TABLE, KIND, numbered(), "mlx")[f"{name}.weight"]
    outs, ins, width = want.shape
    assert got.shape == (outs, width, ins)
    for o, i, w in product(range(outs), range(ins), range(width)):
        assert got[o, w, i] == want[o, i, w]


def test_nothing_else_is_permuted() -> None:
    kernels = {p.name for p in TABLE if p.axes in ("OIHW", "OIW")}
    for layout in layouts.LAYOUTS:
        native = layouts.export(TABLE, KIND, numbered(), layout)
        for name, array in numbered().items():
            if layout != "mlx" or name not in kernels:
                assert bits({name: native[name]}) == bits({name: array}), (layout, name)


def test_arrays_in_a_layout_are_contiguous() -> None:
    for layout in layouts.LAYOUTS:
        for name, array in layouts.export(TABLE, KIND, numbered(), layout).items():
            assert array.flags.c_contiguous, (layout, name)


def test_the_axes_of_a_file_are_written_as_the_letters_of_its_layout() -> None:
    assert layouts.axes_in(TABLE[0], "mlx") == "OHWI"
    assert layouts.axes_in(TABLE[4], "mlx") == "OWI"
    for layout, entry in product(("fwt", "torch"), TABLE):
        assert layouts.axes_in(entry, layout) == entry.axes


# --- there and back -----------------------------------------------------------------------


def through(table: list[Param], kind: str, arrays: dict[str, NumpyArray], *path: str) -> list[dict]:
    """The arrays in each layout of a path, each from the one before by way of the canonical."""
    found = [layouts.export(table, kind, arrays, path[0])]
    for source, target in pairwise(path):
        canonical = layouts.restore(table, kind, found[-1], source)
        found.append(layouts.export(table, kind, canonical, target))
    return found


def test_torch_to_mlx_to_torch_is_the_same_to_the_bit() -> None:
    first, _, again = through(TABLE, KIND, numbered(), "torch", "mlx", "torch")
    assert list(first) == [p.name for p in TABLE]
    assert bits(first) == bits(again)


def test_mlx_to_torch_to_mlx_is_the_same_to_the_bit() -> None:
    first, _, again = through(TABLE, KIND, numbered(), "mlx", "torch", "mlx")
    assert bits(first) == bits(again)
    canonical = layouts.restore(TABLE, KIND, again, "mlx")
    assert bits(canonical) == bits(numbered())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", cases.SOME)
def test_every_cell_goes_round_to_the_bit(variant: str, dtype: str) -> None:
    spec = cases.core_only(cases.core_of(variant, 5), cases.inputs_of(variant, 4))
    table, kind = model.parameters(spec), spec.core.kind
    arrays = {n: a.astype(dtype) for n, a in cases.params_of(spec).items()}
    for name, array in arrays.items():
        if "bias" in name:
            array[::2] = -0.0
    for path in (("torch", "mlx", "torch"), ("mlx", "torch", "mlx"), ("fwt", "torch", "fwt")):
        first, _, again = through(table, kind, arrays, *path)
        assert bits(first) == bits(again), path
        assert bits(layouts.restore(table, kind, again, path[-1])) == bits(arrays), path


def test_minus_zero_stays_minus_zero() -> None:
    for layout in layouts.LAYOUTS:
        native = layouts.export(TABLE, KIND, numbered(), layout)
        back = layouts.restore(TABLE, KIND, native, layout)
        assert np.signbit(back["conv.bias"][0])
        assert back["conv.bias"][0] == 0
        assert not np.signbit(back["conv.bias"][1:]).any()


# --- names --------------------------------------------------------------------------------

NAMES = {
    ("torch", "lstm"): {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"},
    ("torch", "gru"): {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"},
    ("torch", "rnn"): {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"},
    ("mlx", "lstm"): {"Wx", "Wh", "bias"},
    ("mlx", "gru"): {"Wx", "Wh", "b", "bhn"},
    ("mlx", "rnn"): {"Wxh", "Whh", "bias"},
}


@pytest.mark.parametrize(("layout", "kind"), NAMES)
def test_a_cell_the_framework_has_takes_its_names(layout: str, kind: str) -> None:
    spec = cases.core_only({"kind": kind, "size": 3}, 2)
    native = layouts.export(model.parameters(spec), kind, cases.params_of(spec), layout)
    core = {n.removeprefix("core.") for n in native if n.startswith("core.")}
    assert core == NAMES[layout, kind]


@pytest.mark.parametrize("layout", ["torch", "mlx"])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_cell_with_layer_norm_is_no_layer_of_theirs_and_keeps_its_names(
    layout: str, kind: str
) -> None:
    spec = cases.core_only({"kind": kind, "size": 3, "norm": "layer"}, 2)
    arrays = cases.params_of(spec)
    native = layouts.export(model.parameters(spec), kind, arrays, layout)
    assert bits(native) == bits(arrays)


def test_two_torch_biases_are_one_sum() -> None:
    spec = cases.core_only({"kind": "lstm", "size": 3}, 2)
    table = model.parameters(spec)
    native = layouts.export(table, "lstm", cases.params_of(spec), "torch")
    native["core.bias_ih_l0"], native["core.bias_hh_l0"] = np.arange(12.0), np.arange(12.0) * 100
    back = layouts.restore(table, "lstm", native, "torch")
    assert back["core.bias"].tolist() == [101.0 * n for n in range(12)]


def test_the_last_rows_of_a_torch_gru_stay_apart() -> None:
    spec = cases.core_only({"kind": "gru", "size": 2}, 2)
    table = model.parameters(spec)
    native = layouts.export(table, "gru", cases.params_of(spec), "torch")
    native["core.bias_ih_l0"] = np.array([1.0, 2, 3, 4, 5, 6])
    native["core.bias_hh_l0"] = np.array([10.0, 20, 30, 40, 50, 60])
    back = layouts.restore(table, "gru", native, "torch")
    assert back["core.bias"].tolist() == [11, 22, 33, 44, 5, 6]
    assert back["core.bias_n"].tolist() == [50, 60]


# --- what does not fit --------------------------------------------------------------------


def test_what_fits_has_no_mismatch() -> None:
    assert params.mismatches(TABLE, numbered()) == []


@pytest.mark.parametrize("name", ["table.weight", "conv.weight", "conv1d.weight"])
def test_a_transposed_array_is_refused_as_transposed(name: str) -> None:
    arrays = numbered()
    arrays[name] = np.ascontiguousarray(arrays[name].T)
    (fault,) = params.mismatches(TABLE, arrays)
    assert name in fault
    assert "transposed" in fault


def test_a_kernel_in_the_order_of_mlx_is_refused_as_transposed() -> None:
    arrays = numbered()
    arrays["conv.weight"] = layouts.export(TABLE, KIND, numbered(), "mlx")["conv.weight"]
    (fault,) = params.mismatches(TABLE, arrays)
    assert "transposed" in fault


def test_another_size_is_not_called_transposed() -> None:
    arrays = numbered() | {"table.weight": np.zeros((5, 4), np.float32)}
    assert params.mismatches(TABLE, arrays) == ["'table.weight' has shape (5, 4), expected (5, 3)"]


def test_an_array_of_another_rank_is_held_to_the_axes_of_the_layout() -> None:
    native = layouts.export(TABLE, KIND, numbered(), "mlx")
    native["conv.weight"] = np.zeros((3, 2), np.float32)
    assert params.mismatches(layouts.table_in(TABLE, KIND, "mlx"), native) == [
        "'conv.weight' has shape (3, 2), expected (3, 4, 5, 2)"
    ]


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("variant", cases.SOME)
def test_the_table_of_a_layout_is_what_is_exported(variant: str, layout: str) -> None:
    spec = cases.core_only(cases.core_of(variant, 5), cases.inputs_of(variant, 4))
    table, kind = model.parameters(spec), spec.core.kind
    native = layouts.export(table, kind, cases.params_of(spec), layout)
    assert {p.name: p.shape for p in layouts.table_in(table, kind, layout)} == {
        name: array.shape for name, array in native.items()
    }
