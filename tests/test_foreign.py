"""`fwt convert`: layouts of torch.nn and mlx.nn both ways, byte for byte, and into their layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fwt.fwcore.errors import CheckpointError, ConfigError
from fwt.fwcore.storage import checkpoint, foreign, layouts
from tests.cli_tools import TINY, clean_environment, fwt, good, refused, snapshot
from tests.conftest import need
from tests.foreign_cases import CORES, INPUT, INPUTS, SIZE, made, spec_of, torch_names
from tests.tolerances import assert_close, assert_same

NATIVE = ("rnn", "irnn", "lstm", "gru")  # the frameworks have a layer of these


def written(core: str, folder: Path) -> Path:
    found = made(core)
    checkpoint.write(folder, found.spec, found.params, found.moments, found.progress)
    return folder


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


# --- both ways ----------------------------------------------------------------------------


def tensors(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(folder).items() if name.endswith("safetensors")}


@pytest.mark.parametrize("route", [("torch", "mlx"), ("mlx", "torch"), ("torch",), ("mlx",)])
@pytest.mark.parametrize("core", CORES)
def test_a_round_trip_is_byte_identical(core, route, tmp_path):
    """The files themselves are equal: weights, moments, and what they say of themselves."""
    first = here = written(core, tmp_path / "first")
    for number, layout in enumerate((*route, "fwt")):
        there = tmp_path / str(number)
        foreign.save(there, foreign.load(here), layout)
        here = there
    assert snapshot(here) == snapshot(first)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("core", CORES)
def test_converting_twice_is_converting_once(core, layout, tmp_path):
    first = written(core, tmp_path / "first")
    foreign.save(tmp_path / "once", foreign.load(first), layout)
    foreign.save(tmp_path / "twice", foreign.load(tmp_path / "once"), layout)
    assert snapshot(tmp_path / "once") == snapshot(tmp_path / "twice")


@pytest.mark.parametrize("layout", ["torch", "mlx"])
@pytest.mark.parametrize("core", NATIVE)
def test_a_layout_really_is_another_one(core, layout, tmp_path):
    foreign.save(tmp_path / "there", made(core), layout)
    arrays, labels = checkpoint.read_tensors(tmp_path / "there" / "model.safetensors")
    assert labels["fwt.layout"] == layout
    assert labels["format"] == {"torch": "pt", "mlx": "mlx"}[layout]
    assert "core.wx" not in arrays
    for load in (checkpoint.read, lambda path: checkpoint.read(path / "model.safetensors")):
        with pytest.raises(CheckpointError, match=f"layout='{layout}'.*fwt convert"):
            load(tmp_path / "there")


def test_progress_comes_along(tmp_path):
    foreign.save(tmp_path / "there", made("lstm"), "torch")
    assert foreign.load(tmp_path / "there").progress.step == 3


# --- into the frameworks' own layers ------------------------------------------------------


def wanted(core: str, inputs: np.ndarray) -> np.ndarray:
    found = made(core)
    return need("numpy").compile(found.spec.model, found.params).forward(inputs)


@pytest.mark.parametrize("core", NATIVE)
def test_the_torch_file_loads_into_torch_layers(core, tmp_path):
    need("torch")
    import safetensors.torch
    import torch
    from torch import nn

    layer = {
        "rnn": lambda: nn.RNN(INPUT, SIZE, batch_first=True),
        "irnn": lambda: nn.RNN(INPUT, SIZE, batch_first=True, nonlinearity="relu"),
        "lstm": lambda: nn.LSTM(INPUT, SIZE, batch_first=True),
        "gru": lambda: nn.GRU(INPUT, SIZE, batch_first=True),
    }[core]
    net = nn.ModuleDict(
        {
            "encoder": nn.Embedding(37, INPUT),
            "core": layer(),
            "head": nn.ModuleDict({"hidden": nn.Linear(SIZE, 6), "output": nn.Linear(6, 10)}),
        }
    )
    foreign.save(tmp_path / "there", made(core), "torch")
    state = safetensors.torch.load_file(tmp_path / "there" / "model.safetensors")
    net.load_state_dict(state, strict=True)
    with torch.no_grad():
        outputs, _ = net["core"](net["encoder"](torch.from_numpy(INPUTS)))
        hidden = torch.relu(net["head"]["hidden"](outputs[:, -1]))
        scores = net["head"]["output"](hidden).numpy()
    assert_close("logits", wanted(core, INPUTS), scores, "outputs", "float32", "own")
    moments, _ = checkpoint.read_tensors(tmp_path / "there" / "optimizer.safetensors")
    assert {name.split(".", 1)[1] for name in moments} == state.keys()
    for name, array in moments.items():
        assert array.shape == tuple(state[name.split(".", 1)[1]].shape)


@pytest.mark.parametrize("core", NATIVE)
def test_the_mlx_file_loads_into_mlx_layers(core, tmp_path):
    need("mlx")
    import mlx.core as mx
    from mlx import nn

    layer = {
        "rnn": lambda: nn.RNN(INPUT, SIZE),
        "irnn": lambda: nn.RNN(INPUT, SIZE, nonlinearity=nn.relu),
        "lstm": lambda: nn.LSTM(INPUT, SIZE),
        "gru": lambda: nn.GRU(INPUT, SIZE),
    }[core]
    net, head = nn.Module(), nn.Module()
    head.hidden, head.output = nn.Linear(SIZE, 6), nn.Linear(6, 10)
    net.encoder, net.core, net.head = nn.Embedding(37, INPUT), layer(), head
    foreign.save(tmp_path / "there", made(core), "mlx")
    net.load_weights(str(tmp_path / "there" / "model.safetensors"), strict=True)
    outputs = net.core(net.encoder(mx.array(INPUTS)))
    states = outputs[0] if isinstance(outputs, tuple) else outputs
    scores = head.output(nn.relu(head.hidden(states[:, -1])))
    assert_close("logits", wanted(core, INPUTS), np.array(scores), "outputs", "float32", "own")


# --- other files --------------------------------------------------------------------------


@pytest.fixture(name="spec_file")
def _spec_file(tmp_path):
    path = tmp_path / "lstm.json"
    path.write_text(json.dumps(spec_of("lstm").json_data()))
    return path


def test_an_npz_file_with_its_spec_and_layout(spec_file, tmp_path):
    np.savez(tmp_path / "weights.npz", **torch_names("lstm"))
    found = foreign.load(tmp_path / "weights.npz", spec_file, "torch")
    assert_same(made("lstm").params, found.params)
    assert found.moments is None
    with pytest.raises(ConfigError, match="which layout is it"):
        foreign.load(tmp_path / "weights.npz", spec_file)
    with pytest.raises(CheckpointError, match="does not say which model"):
        foreign.load(tmp_path / "weights.npz", None, "torch")
    with pytest.raises(CheckpointError, match=r"missing 'core\.Wx'"):
        foreign.load(tmp_path / "weights.npz", spec_file, "mlx")
    with pytest.raises(ConfigError, match="unknown layout 'trch'"):
        foreign.load(tmp_path / "weights.npz", spec_file, "trch")


def test_a_pickled_npz_file_is_refused(spec_file, tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([{"not": "numbers"}], dtype=object))
    with pytest.raises(CheckpointError, match=r"not a readable \.npz file"):
        foreign.load(tmp_path / "weights.npz", spec_file, "torch")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "parameter", "legacy", "strided"])
def test_a_pt_file_by_the_command(kind, spec_file, tmp_path):
    need("torch")
    import torch

    tensor = {
        "bfloat16": lambda array: torch.tensor(array).bfloat16(),
        "parameter": lambda array: torch.nn.Parameter(torch.tensor(array)),
        "strided": lambda array: torch.tensor(np.repeat(array, 2, -1))[..., ::2],
    }.get(kind, torch.tensor)
    state = {name: tensor(array) for name, array in torch_names("lstm").items()}
    source, target = tmp_path / "weights.pt", tmp_path / "there"
    torch.save(state, source, _use_new_zipfile_serialization=kind != "legacy")
    arguments = ("convert", source, target, "--to", "fwt", "--spec", spec_file)
    refused(2, ["which layout is it", "--from"], *arguments)
    good(*arguments, "--from", "torch")
    found = checkpoint.read(target).params
    want = made("lstm").params
    if kind == "bfloat16":
        want = {n: torch.tensor(a).bfloat16().float().numpy() for n, a in want.items()}
    assert_same(want, found)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("lone bias", ["missing 'core.bias_hh_l0'"]),
        ("short bias", ["'core.bias_hh_l0' has shape (3,), expected (16,)"]),
        ("transposed", ["'core.weight_ih_l0' has shape (5, 16), expected (16, 5)", "transposed?"]),
        ("extra", ["extra 'core.q'"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(fault, words, spec_file, tmp_path):
    arrays = torch_names("lstm")
    if fault == "lone bias":
        del arrays["core.bias_hh_l0"]
    elif fault == "short bias":
        arrays["core.bias_hh_l0"] = arrays["core.bias_hh_l0"][:3]
    elif fault == "transposed":
        arrays["core.weight_ih_l0"] = arrays["core.weight_ih_l0"].T.copy()
    else:
        arrays["core.q"] = arrays["core.weight_ih_l0"]
    np.savez(tmp_path / "weights.npz", **arrays)
    target = tmp_path / "there"
    source = ("convert", tmp_path / "weights.npz", target, "--to", "fwt")
    refused(4, words, *source, "--spec", spec_file, "--from", "torch")
    assert not target.exists()


def test_two_biases_are_summed(spec_file, tmp_path):
    arrays = torch_names("lstm")
    arrays["core.bias_hh_l0"] = np.arange(16, dtype=np.float32)
    np.savez(tmp_path / "weights.npz", **arrays)
    found = foreign.load(tmp_path / "weights.npz", spec_file, "torch")
    want = made("lstm").params["core.bias"] + arrays["core.bias_hh_l0"]
    assert found.params["core.bias"].tobytes() == want.tobytes()


def test_a_file_that_says_its_layout_is_not_read_as_another(tmp_path):
    foreign.save(tmp_path / "there", made("lstm"), "mlx")
    file = tmp_path / "there" / "model.safetensors"
    words = ["says layout='mlx'", "--from torch"]
    refused(2, words, "convert", file, tmp_path / "x", "--to", "fwt", "--from", "torch")
    assert_same(made("lstm").params, foreign.load(file, None, "mlx").params)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_spec_file_that_is_none(text, tmp_path):
    np.savez(tmp_path / "weights.npz", **torch_names("lstm"))
    (tmp_path / "spec.json").write_text(text)
    arguments = ("convert", tmp_path / "weights.npz", tmp_path / "x", "--to", "fwt", "--from")
    done = fwt(*arguments, "torch", "--spec", tmp_path / "spec.json")
    assert done.code in (2, 4)
    assert len(done.errors) == 1
    assert "spec.json" in done.errors[0]


def test_moments_in_a_layout_are_held_to_the_spec(tmp_path):
    found = made("gru")
    foreign.save(tmp_path / "first", found, "mlx")
    weights, _ = checkpoint.read_tensors(tmp_path / "first" / "model.safetensors")
    arrays, _ = checkpoint.read_tensors(tmp_path / "first" / "optimizer.safetensors")
    arrays["m.core.Wx"] = arrays["m.core.Wx"].T
    arrays["w.core.Wx"] = arrays["v.core.Wx"]
    del arrays["v.core.bhn"]
    checkpoint.write(tmp_path / "there", found.spec, weights, arrays, found.progress, "mlx")
    with pytest.raises(CheckpointError) as caught:
        foreign.load(tmp_path / "there")
    words = ("extra 'w.core.Wx'", "missing 'v.core.bhn'", "'m.core.Wx' has shape (5, 12)")
    assert all(word in str(caught.value) for word in words), caught.value


# --- a whole run --------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("cell", [("--model", "lstm"), ("--set", "model.core.trained=true")])
def test_a_trained_run_goes_through_both_layouts_and_verifies(cell, tmp_path):
    need("mlx")
    run, there, back = tmp_path / "run", tmp_path / "there", tmp_path / "back"
    good("train", *TINY, *cell, "--backend", "torch", "--out", run)
    done = good("convert", run, there, "--to", "mlx", "--verify", "--json").json
    assert [pair["ok"] for pair in done["pairs"]] == [True, True, True]
    shown = good("convert", there, tmp_path / "torch", "--to", "torch").out
    assert "in the torch layout" in shown
    good("convert", tmp_path / "torch", back, "--to", "fwt")
    assert tensors(back) == tensors(run / "checkpoints" / "step-00000006")
    want = good("eval", run, "--backend", "numpy", "--json").json
    found = good("eval", back, "--backend", "numpy", "--json").json
    assert {**found, "checkpoint": ""} == {**want, "checkpoint": ""}


def test_verify_says_when_backends_are_apart(tmp_path, monkeypatch):
    from fwt.fwcore.analysis import compare

    point = written("lstm", tmp_path / "point")
    done = good("verify", point, "--backends", "torch,numpy", "--json")
    (pair,) = done.json["pairs"]
    assert pair["ok"]
    assert (pair["argmax_equal"], pair["examples"]) == (32, 32)
    assert done.json["dtype"] == "float32"
    monkeypatch.setattr(compare, "LOGIT_TOLERANCE", 1e-12)
    monkeypatch.setattr(compare, "ROUNDING_FACTOR", 1e-9)
    done = fwt("verify", point, "--backends", "torch,numpy", "--json")
    assert done.code == 1
    assert not done.json["pairs"][0]["ok"]
    assert done.errors == ["error: verify: out of tolerance: torch and numpy"]
    target = tmp_path / "there"
    done = fwt("convert", point, target, "--to", "torch", "--verify")
    assert done.code == 1
    assert done.errors[0].startswith("error: convert: the backends are out of tolerance")


@pytest.mark.usefixtures("eager")
def test_a_bfloat16_run_is_evaluated_in_it_and_verified_in_float32(tmp_path):
    run = tmp_path / "run"
    good("train", *TINY, "--dtype", "bfloat16", "--backend", "torch", "--out", run)
    assert good("eval", run, "--backend", "torch", "--json").json["dtype"] == "bfloat16"
    assert good("eval", run, "--backend", "numpy", "--json").json["dtype"] == "float64"
    found = good("verify", run, "--json").json
    assert found["dtype"] == "float32"
    assert all(pair["ok"] for pair in found["pairs"])
    shown = good("verify", run, "--backends", "torch,numpy").out
    assert "retrieval-k4, test: 64 examples" in shown
    assert "held to: logits 2e-05" in shown


def test_the_sources_of_a_conversion_are_left_as_they_were(tmp_path):
    point = written("gru", tmp_path / "point")
    before = snapshot(point)
    good("convert", point, tmp_path / "there", "--to", "mlx")
    assert snapshot(point) == before
