"""Weights of other programs: their types, names and layers, by values, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.storage import checkpoint, dtypes, layouts
from fwt.fwcore.storage.adapt import adapt
from tests.cli_tools import clean_environment, good, refused
from tests.conftest import need
from tests.foreign_cases import INPUT, INPUTS, SIZE, bits, made, spec_of, torch_names
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def convert(source: Path, core: str, layout: str, *more: str) -> tuple[str, ...]:
    """The words that convert a file, of which the result is `there` beside it."""
    spec = source.with_name("said.json")
    spec.write_text(json.dumps(spec_of(core).json_data()))
    into = ("convert", str(source), str(source.with_name("there")), "--to", "fwt")
    return (*into, "--from", layout, "--spec", str(spec), *more)


def converted(path: Path) -> dict[str, np.ndarray]:
    return checkpoint.read(path.with_name("there")).params


def mlx_names(core: str) -> dict[str, np.ndarray]:
    found = made(core)
    table = model.parameters(found.spec.model)
    return layouts.export(table, found.spec.model.core.kind, found.params, "mlx")


# --- types --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_every_number_of_16_bits_is_read_exactly(kind):
    need("torch")
    import torch

    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    want = patterns.view(getattr(torch, kind)).float().numpy()
    stored = patterns.numpy().view(dtypes.BFLOAT16 if kind == "bfloat16" else np.float16)
    square = stored.reshape(256, 256)
    for array in (square, square.T, square[::3, 5:], stored[:0], stored[16256].reshape(())):
        assert dtypes.type_name(array.dtype) == kind
        assert dtypes.widen(array).dtype == np.float32
        assert dtypes.widen(array).shape == array.shape
    found = dtypes.widen(square).ravel()
    numbers = ~np.isnan(want)
    assert found[numbers].tobytes() == want[numbers].tobytes()
    assert np.isnan(found[~numbers]).all()


def write_small(kind: str, path: Path) -> None:
    """The weights of `made("lstm")` in a type of 16 bits, in a file of the path's format."""
    layout, program = path.stem.split("-")
    arrays = torch_names("lstm") if layout == "torch" else mlx_names("lstm")
    if program == "numpy":
        np.savez(path, **{name: array.astype(np.float16) for name, array in arrays.items()})
    elif program == "torch":
        need("torch")
        import safetensors.torch
        import torch

        tensors = {n: torch.tensor(a).to(getattr(torch, kind)) for n, a in arrays.items()}
        if path.suffix == ".pt":
            torch.save(tensors, path)
        else:
            safetensors.torch.save_file(tensors, path)
    else:
        need("mlx")
        import mlx.core as mx

        found = {n: mx.array(a).astype(getattr(mx, kind)) for n, a in arrays.items()}
        if path.suffix == ".npz":
            mx.savez(str(path), **found)
        else:
            mx.save_safetensors(str(path), found)


def rounded(kind: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    need("torch")
    import torch

    small = getattr(torch, kind)
    return {name: torch.tensor(array).to(small).float().numpy() for name, array in arrays.items()}


FILES = [
    ("bfloat16", "torch-torch.safetensors"),
    ("float16", "torch-torch.safetensors"),
    ("bfloat16", "torch-torch.pt"),
    ("float16", "torch-torch.pt"),
    ("bfloat16", "mlx-mlx.safetensors"),
    ("bfloat16", "mlx-mlx.npz"),
    ("float16", "mlx-mlx.npz"),
    ("float16", "torch-numpy.npz"),
]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_numbers_of_16_bits_are_read_as_float32_and_said(kind, name, tmp_path):
    path = tmp_path / name
    write_small(kind, path)
    command = convert(path, "lstm", name.split("-", maxsplit=1)[0])
    count = len(torch_names("lstm") if name.startswith("torch") else made("lstm").params)
    assert f"\n  {kind} read as float32: {count} of {count} arrays\n" in good(*command).out
    assert bits(converted(path)) == bits(rounded(kind, made("lstm").params))


def test_other_byte_orders_and_types_side_by_side(tmp_path):
    arrays = torch_names("lstm")
    arrays["core.weight_ih_l0"] = arrays["core.weight_ih_l0"].astype(">f2")
    arrays["core.weight_hh_l0"] = arrays["core.weight_hh_l0"].astype(">f8")
    arrays["head.hidden.weight"] = np.asfortranarray(arrays["head.hidden.weight"].astype(">f4"))
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    found = good(*convert(path, "lstm", "torch", "--json")).json
    assert found["notes"] == ["float16 read as float32: 1 of 9 arrays"]
    want = made("lstm").params
    want["core.wx"] = want["core.wx"].astype(np.float16).astype(np.float32)
    want["core.wh"] = want["core.wh"].astype(np.float64)
    assert bits(converted(path)) == bits(want)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_types_that_cannot_be_read_are_named_beside_all_else(suffix, tmp_path):
    need("torch")
    import safetensors.torch
    import torch

    state = {name: torch.tensor(array) for name, array in torch_names("lstm").items()}
    state["core.weight_hh_l0"] = state["core.weight_hh_l0"].to(torch.float8_e4m3fn)
    state["head.output.weight"] = state["head.output.weight"].long()
    del state["encoder.weight"]
    path = tmp_path / f"w{suffix}"
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(state, path)
    known = "F8_E4M3" if suffix == ".safetensors" else "float8_e4m3fn"
    words = [
        "missing 'encoder.weight'",
        f"'core.weight_hh_l0' has type {known}, expected float32",
        "'head.output.weight' has type int64, expected float32",
    ]
    refused(4, words, *convert(path, "lstm", "torch"))


def test_a_checkpoint_of_ours_in_another_type_is_no_damaged_file(tmp_path):
    """The type is named; a checkpoint is never converted without a word."""
    need("torch")
    import safetensors.torch
    import torch

    found = made("lstm")
    labels = checkpoint.metadata_of(found.spec)
    small = {name: torch.tensor(array).bfloat16() for name, array in found.params.items()}
    safetensors.torch.save_file(small, tmp_path / "model.safetensors", labels)
    refused(4, ["'core.wx' has type bfloat16"], "eval", tmp_path / "model.safetensors")


# --- names --------------------------------------------------------------------------------


def network(core: str, cell: bool = False, bias: bool = True) -> Any:
    """A torch.nn network with the spec's layers: a recurrent layer, or the cell of one."""
    need("torch")
    import torch
    from torch import nn

    name = {"lstm": "LSTM", "gru": "GRU"}.get(core, "RNN")
    more = {"nonlinearity": "relu" if core == "irnn" else "tanh"} if name == "RNN" else {}
    torch.manual_seed(1)
    made_of = getattr(nn, f"{name}Cell" if cell else name)
    return nn.ModuleDict(
        {
            "encoder": nn.Embedding(37, INPUT),
            "core": made_of(INPUT, SIZE, bias=bias, **more),
            "head": nn.ModuleDict(
                {"hidden": nn.Linear(SIZE, 6, bias=bias), "output": nn.Linear(6, 10)}
            ),
        }
    )


def answers(net: Any) -> np.ndarray:
    """What it says of `INPUTS`."""
    import torch

    core = net["core"]
    with torch.no_grad():
        x = net["encoder"](torch.from_numpy(INPUTS)).transpose(0, 1)
        if isinstance(core, torch.nn.RNNCellBase):
            state = None
            for each in x:
                state = core(each, state)
            last = state[0] if isinstance(state, tuple) else state
        else:
            last = core(x)[0][-1]
        return net["head"]["output"](torch.relu(net["head"]["hidden"](last))).numpy()


def check_answers(path: Path, core: str, want: np.ndarray) -> None:
    """The converted weights in our cell give the numbers of the framework's own."""
    got = need("numpy").compile(spec_of(core).model, converted(path)).forward(INPUTS)
    assert_close(core, want, got, "outputs", "float32", "own")


def save(state: Any, path: Path) -> Path:
    import torch

    torch.save(state, path)
    return path


WRAPPED = {
    "parallel": (("module",), lambda nn, net: nn.DataParallel(net)),
    "averaged by hand": (("module",), lambda nn, net: nn.ModuleDict({"module": net})),
    "compiled": (("_orig_mod",), lambda nn, net: nn.ModuleDict({"_orig_mod": net})),
    "compiled, then parallel": (
        ("module", "_orig_mod"),
        lambda nn, net: nn.DataParallel(nn.ModuleDict({"_orig_mod": net})),
    ),
    "parallel, then compiled": (
        ("module", "_orig_mod"),
        lambda nn, net: nn.ModuleDict({"_orig_mod": nn.DataParallel(net)}),
    ),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_names_of_wrapped_models_are_recognised(wrapped, tmp_path):
    net = network("lstm")
    from torch import nn

    parts, wrap = WRAPPED[wrapped]
    path = save(wrap(nn, net).state_dict(), tmp_path / "w.pt")
    shown = good(*convert(path, "lstm", "torch")).out
    for part in parts:
        assert f"\n  {part!r} left out of names: 9 of 9\n" in shown
    check_answers(path, "lstm", answers(net))


def test_names_of_a_model_of_which_parts_were_wrapped(tmp_path):
    """`torch.compile(layer)` has the layer's names below `_orig_mod`."""
    net = network("gru")
    from torch import nn

    want, layer = answers(net), nn.ModuleDict({"_orig_mod": net["core"]})
    parts = nn.ModuleDict({"encoder": net["encoder"], "core": layer, "head": net["head"]})
    path = save(nn.DataParallel(parts).state_dict(), tmp_path / "w.pt")
    found = good(*convert(path, "gru", "torch", "--json")).json
    assert found["notes"] == [
        "'module' left out of names: 9 of 9",
        "'_orig_mod' left out of names: 4 of 9",
    ]
    check_answers(path, "gru", want)


def test_a_model_of_ours_that_was_compiled_by_the_user(tmp_path):
    """In canonical names, and in those of MLX."""
    found = made("lstm").params
    path = tmp_path / "w.npz"
    for layout, arrays in (("fwt", found), ("mlx", mlx_names("lstm"))):
        np.savez(path, **{f"module._orig_mod.{name}": array for name, array in arrays.items()})
        target = tmp_path / layout
        words = convert(path, "lstm", layout)
        good(*words[:2], str(target), *words[3:])
        assert bits(checkpoint.read(target).params) == bits(found)


def test_two_names_for_one_weight_are_not_chosen_between():
    table = layouts.table_in(model.parameters(spec_of("lstm").model), "lstm", "torch")
    arrays = torch_names("lstm")
    for twice in ("module.core.weight_ih_l0", "core.weight_ih"):
        for order in (1, -1):
            given = dict([*arrays.items(), (twice, arrays["core.weight_hh_l0"])][::order])
            found, notes = adapt(table, given)
            assert found.keys() == given.keys()
            assert notes == ()
    found, _ = adapt(table, {"module.a": np.zeros(1), "_orig_mod.a": np.ones(1)})
    assert found.keys() == {"a", "_orig_mod.a"}


# --- layers -------------------------------------------------------------------------------

NATIVE = ("rnn", "irnn", "lstm", "gru")


@pytest.mark.parametrize("core", NATIVE)
def test_weights_of_a_torch_cell_give_its_answers(core, tmp_path):
    net = network(core, cell=True)
    path = save(net.state_dict(), tmp_path / "w.pt")
    shown = good(*convert(path, core, "torch")).out
    assert "\n  names of a torch.nn cell read as those of a layer: 4 of 9\n" in shown
    check_answers(path, core, answers(net))


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("core", NATIVE)
def test_layers_of_torch_without_biases_get_zeros_where_asked(core, cell, tmp_path):
    net = network(core, cell, bias=False)
    path = save(net.state_dict(), tmp_path / "w.pt")
    biases = ["core.bias_ih_l0", "core.bias_hh_l0", "head.hidden.bias"]
    words = [*(f"missing {name!r}" for name in biases), "--zero-biases"]
    refused(4, words, *convert(path, core, "torch"))
    shown = good(*convert(path, core, "torch", "--zero-biases")).out
    assert f"\n  zeros for missing biases: {', '.join(biases)}\n" in shown
    check_answers(path, core, answers(net))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("core", NATIVE)
def test_weights_of_an_mlx_layer_give_its_answers(core, bias, tmp_path):
    need("mlx")
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten

    name = {"lstm": "LSTM", "gru": "GRU"}.get(core, "RNN")
    more = {"nonlinearity": nn.relu} if core == "irnn" else {}
    mx.random.seed(1)
    net, head = nn.Module(), nn.Module()
    head.hidden, head.output = nn.Linear(SIZE, 6, bias=bias), nn.Linear(6, 10)
    net.core = getattr(nn, name)(INPUT, SIZE, bias=bias, **more)
    net.encoder, net.head = nn.Embedding(37, INPUT), head
    found = net.core(net.encoder(mx.array(INPUTS)))
    last = (found[0] if isinstance(found, tuple) else found)[:, -1]
    want = np.array(head.output(nn.relu(head.hidden(last))))
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), dict(tree_flatten(net.parameters())))
    if not bias:
        biases = ["core.b", "core.bhn"] if core == "gru" else ["core.bias"]
        words = [f"missing {each!r}" for each in (*biases, "head.hidden.bias")]
        refused(4, [*words, "--zero-biases"], *convert(path, core, "mlx"))
    good(*convert(path, core, "mlx", *([] if bias else ["--zero-biases"])))
    check_answers(path, core, want)


# --- what does not fit --------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["torch", "mlx"])
def test_every_difference_is_in_one_line(layout, tmp_path):
    """In the names and the axes of the file's layout; biases do not hide the rest."""
    arrays = torch_names("lstm") if layout == "torch" else mlx_names("lstm")
    wide, bias = ("weight_ih_l0", "bias_hh_l0") if layout == "torch" else ("Wx", "bias")
    del arrays[f"core.{bias}"], arrays["encoder.weight"]
    arrays[f"core.{wide}"] = arrays[f"core.{wide}"].T.copy()
    arrays["head.output.bias"] = arrays["head.output.bias"].astype(np.int32)
    arrays["core.weight_ih_l1"] = arrays["head.output.weight"]
    np.savez(tmp_path / "w.npz", **{f"module.{name}": array for name, array in arrays.items()})
    words = [
        "weights do not fit the spec",
        "missing 'encoder.weight'",
        f"missing 'core.{bias}'",
        "extra 'core.weight_ih_l1'",
        f"'core.{wide}' has shape (5, 16), expected (16, 5) (transposed?)",
        "'head.output.bias' has type int32, expected float32",
        "--zero-biases",
    ]
    refused(4, words, *convert(tmp_path / "w.npz", "lstm", layout))
    refused(4, words[3:-1], *convert(tmp_path / "w.npz", "lstm", layout, "--zero-biases"))
    assert not (tmp_path / "there").exists()


def test_kernels_are_held_to_the_axes_of_their_layout(tmp_path):
    arrays = mlx_names("convnet")
    name = "core.conv1.weight"
    want = arrays[name].shape
    arrays[name] = np.moveaxis(arrays[name], 3, 1)
    np.savez(tmp_path / "w.npz", **arrays)
    words = [f"{name!r} has shape {arrays[name].shape}, expected {want} (transposed?)"]
    refused(4, words, *convert(tmp_path / "w.npz", "convnet", "mlx"))


def test_what_is_no_state_dict_says_what_it_holds(tmp_path):
    state = network("lstm").state_dict()
    path = save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    words = ["'state_dict' of type OrderedDict", "state_dict()"]
    refused(4, words, *convert(path, "lstm", "torch"))
    refused(4, ["got list"], *convert(save([1], path), "lstm", "torch"))


def test_a_bias_that_is_missing_is_zeros_for_that_one_alone(tmp_path):
    arrays = torch_names("gru")
    del arrays["core.bias_ih_l0"]
    np.savez(tmp_path / "w.npz", **arrays)
    refused(4, ["missing 'core.bias_ih_l0'"], *convert(tmp_path / "w.npz", "gru", "torch"))
    good(*convert(tmp_path / "w.npz", "gru", "torch", "--zero-biases"))
    want = made("gru").params
    rest = {name: array for name, array in want.items() if name != "core.bias"}
    got = converted(tmp_path / "w.npz")
    assert not got.pop("core.bias").any()
    assert bits(got) == bits(rest)
