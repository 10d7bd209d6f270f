"""The frameworks' own layers: their weights in our cells, ours in theirs, the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.fwcore import model
from fwt.fwcore.cells.common import LAYER_NORM_EPSILON
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage import layouts
from tests import cases, oracle
from tests.cases import Engine
from tests.conftest import need
from tests.tolerances import assert_close

SIZE, INPUTS, BATCH, TIME = 6, 5, 3, 9

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"kind": "lstm"},
    "gru": {"kind": "gru"},
    "rnn-tanh": {"kind": "rnn", "activation": "tanh"},
    "rnn-relu": {"kind": "rnn", "activation": "relu"},
}


@dataclass(frozen=True)
class Layer:
    """A framework's own recurrent layer, weights and numbers as NumPy."""

    layout: str
    weights: Callable[[], dict[str, NumpyArray]]
    load: Callable[[dict[str, NumpyArray]], None]  # strict: no name missing, none too many
    run: Callable[[NumpyArray], NumpyArray]


def torch_layer(kind: str) -> Layer:
    import torch

    torch.manual_seed(3)
    made = {
        "lstm": lambda: torch.nn.LSTM(INPUTS, SIZE, batch_first=True),
        "gru": lambda: torch.nn.GRU(INPUTS, SIZE, batch_first=True),
        "rnn-tanh": lambda: torch.nn.RNN(INPUTS, SIZE, batch_first=True),
        "rnn-relu": lambda: torch.nn.RNN(INPUTS, SIZE, nonlinearity="relu", batch_first=True),
    }[kind]()

    def load(weights: dict[str, NumpyArray]) -> None:
        made.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, strict=True)

    def run(x: NumpyArray) -> NumpyArray:
        with torch.no_grad():
            return made(torch.from_numpy(x.astype(np.float32)))[0].numpy()

    return Layer(
        "torch", lambda: {n: v.numpy().copy() for n, v in made.state_dict().items()}, load, run
    )


def mlx_layer(kind: str) -> Layer:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten

    mx.random.seed(3)
    made = {
        "lstm": lambda: nn.LSTM(INPUTS, SIZE),
        "gru": lambda: nn.GRU(INPUTS, SIZE),
        "rnn-tanh": lambda: nn.RNN(INPUTS, SIZE),
        "rnn-relu": lambda: nn.RNN(INPUTS, SIZE, nonlinearity=nn.relu),
    }[kind]()

    def load(weights: dict[str, NumpyArray]) -> None:
        made.load_weights([(n, mx.array(a)) for n, a in weights.items()], strict=True)

    def run(x: NumpyArray) -> NumpyArray:
        found = made(mx.array(x.astype(np.float32)))
        return np.array(found[0] if isinstance(found, tuple) else found)

    return Layer(
        "mlx", lambda: {n: np.array(v) for n, v in tree_flatten(made.parameters())}, load, run
    )


LAYERS = {"torch": torch_layer, "mlx": mlx_layer}


def layer_of(framework: str, kind: str) -> Layer:
    need(framework)
    return LAYERS[framework](kind)


def spec_of(kind: str) -> ModelSpec:
    return cases.core_only({**KINDS[kind], "size": SIZE}, INPUTS)


def ours(spec: ModelSpec, layer: Layer) -> dict[str, NumpyArray]:
    """Canonical weights from a framework's layer; encoder and head are not in it."""
    native = {f"core.{name}": array for name, array in layer.weights().items()}
    rest = {n: a for n, a in cases.params_of(spec).items() if n.startswith("head.")}
    return layouts.restore(model.parameters(spec), spec.core.kind, {**rest, **native}, layer.layout)


def theirs(spec: ModelSpec, params: dict[str, NumpyArray], layer: Layer) -> dict[str, NumpyArray]:
    return theirs_of(spec, params, layer.layout)


def theirs_of(spec: ModelSpec, params: dict[str, NumpyArray], layout: str) -> dict[str, NumpyArray]:
    native = layouts.export(model.parameters(spec), spec.core.kind, params, layout)
    return {n.removeprefix("core."): a for n, a in native.items() if n.startswith("core.")}


def test_every_framework_that_trains_has_its_layers_here() -> None:
    assert set(LAYERS) == set(backends.TRAINING_ORDER)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framework", LAYERS)
def test_their_weights_give_their_outputs_in_our_cell(
    framework: str, kind: str, engine: Engine
) -> None:
    layer, spec = layer_of(framework, kind), spec_of(kind)
    x = cases.noise(5, BATCH, TIME, INPUTS)
    hs, _ = engine.compile(spec, ours(spec, layer)).states(x)
    assert_close(f"{framework} {kind}", layer.run(x), hs, "outputs", "float32", "own")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framework", LAYERS)
def test_our_weights_load_strictly_and_give_our_outputs(
    framework: str, kind: str, engine: Engine
) -> None:
    layer, spec = layer_of(framework, kind), spec_of(kind)
    params = {n: a.astype(np.float32) for n, a in cases.params_of(spec, seed=8).items()}
    x = cases.noise(6, BATCH, TIME, INPUTS)
    before = layer.run(x)
    layer.load(theirs(spec, params, layer))
    hs, _ = engine.compile(spec, params).states(x)
    assert np.abs(layer.run(x) - before).max() > 0.1, "nothing was loaded"
    assert_close(f"{framework} {kind}", layer.run(x), hs, "outputs", "float32", "own")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framework", LAYERS)
def test_their_weights_there_and_back_give_their_outputs(framework: str, kind: str) -> None:
    layer, spec = layer_of(framework, kind), spec_of(kind)
    x = cases.noise(5, BATCH, TIME, INPUTS)
    want, weights = layer.run(x), layer.weights()
    back = theirs(spec, ours(spec, layer), layer)
    assert {n: a.shape for n, a in back.items()} == {n: a.shape for n, a in weights.items()}
    layer.load(back)
    assert_close(f"{framework} {kind}", want, layer.run(x), "outputs", "float32", "own")


def test_a_torch_lstm_in_float64_from_a_given_state(exact_engine: Engine) -> None:
    need("torch")
    import torch

    torch.manual_seed(4)
    own = torch.nn.LSTM(INPUTS, SIZE, batch_first=True).double()
    native = {f"core.{n}": v.numpy() for n, v in own.state_dict().items()}
    spec = spec_of("lstm")
    rest = {n: a for n, a in cases.params_of(spec).items() if n.startswith("head.")}
    params = layouts.restore(model.parameters(spec), "lstm", {**rest, **native}, "torch")
    h, c, x = (cases.noise(n, *s) for n, s in enumerate([(2, SIZE), (2, SIZE), (2, 7, INPUTS)]))
    with torch.no_grad():
        start = tuple(torch.from_numpy(a)[None] for a in (h, c))
        want, (h_end, c_end) = own(torch.from_numpy(x), start)
    hs, final = exact_engine.compile(spec, params).states(x, {"h": h, "c": c})
    assert_close("hs", want.numpy(), hs, "outputs", "float64", "own")
    assert_close("h", h_end[0].numpy(), final["h"], "outputs", "float64", "own")
    assert_close("c", c_end[0].numpy(), final["c"], "outputs", "float64", "own")


# --- convolutions -------------------------------------------------------------------------


def torch_features(weights: dict[str, NumpyArray], pictures: NumpyArray) -> NumpyArray:
    """(N, 7, 7) -> (N, R)."""
    import torch

    size = len(weights["conv1.bias"])
    first, second = torch.nn.Conv2d(1, size, 3, padding=1), torch.nn.Conv2d(size, size, 3)
    own = torch.nn.ModuleDict({"conv1": first, "conv2": second})
    own.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, strict=True)
    with torch.no_grad():
        seen = torch.relu(own["conv1"](torch.from_numpy(pictures)[:, None]))
        return torch.relu(own["conv2"](torch.nn.MaxPool2d(3, 2)(seen)))[:, :, 0, 0].numpy()


def mlx_features(weights: dict[str, NumpyArray], pictures: NumpyArray) -> NumpyArray:
    """(N, 7, 7) -> (N, R); MLX has channels last."""
    import mlx.core as mx
    from mlx import nn

    size = len(weights["conv1.bias"])
    own = nn.Module()
    own.conv1, own.conv2 = nn.Conv2d(1, size, 3, padding=1), nn.Conv2d(size, size, 3)
    own.load_weights([(n, mx.array(a)) for n, a in weights.items()], strict=True)
    seen = nn.MaxPool2d(3, 2)(nn.relu(own.conv1(mx.array(pictures)[..., None])))
    return np.array(nn.relu(own.conv2(seen))[:, 0, 0])


@pytest.mark.parametrize("framework", LAYERS)
def test_our_convnet_is_their_convolutions(framework: str, engine: Engine) -> None:
    """Exported in their layout, the kernels load strictly and give the features of each glimpse."""
    need(framework)
    spec = cases.core_only({"kind": "convnet", "size": SIZE, "steps": TIME}, 49)
    params = {n: a.astype(np.float32) for n, a in cases.params_of(spec, seed=8).items()}
    params["core.conv2.bias"] += 6
    native = theirs_of(spec, params, framework)
    kernels = {n: a for n, a in native.items() if n.startswith("conv")}
    x = cases.noise(6, BATCH, TIME, 49).astype(np.float32)
    own = {"torch": torch_features, "mlx": mlx_features}[framework]
    features = own(kernels, x.reshape(-1, 7, 7)).reshape(BATCH, TIME, SIZE)
    assert (features > 0).any(axis=(0, 1)).all(), "a feature that nothing shows"
    terms = np.einsum("tor,btr->bto", native["w"], features.astype(np.float64))
    want = np.maximum(terms.cumsum(1) + native["bias"], 0)
    hs, _ = engine.compile(spec, params).states(x)
    assert_close(framework, want, hs, "outputs", "float32", "own")


# --- layer norm ---------------------------------------------------------------------------


def ops_of(engine: Engine) -> Any:
    return engine.compile(cases.core_only({"kind": "rnn", "size": 2}, 2)).module.ops


def our_layer_norm(engine: Engine, *arrays: NumpyArray) -> NumpyArray:
    ops = ops_of(engine)
    if engine.name != "mlx":
        return np.asarray(ops.layer_norm(*map(ops.constant, arrays), LAYER_NORM_EPSILON))
    import mlx.core as mx

    device = mx.cpu if engine.dtype == "float64" else mx.default_device()
    with mx.stream(device):
        return np.array(ops.layer_norm(*map(ops.constant, arrays), LAYER_NORM_EPSILON))


def norm_arrays() -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    return cases.noise(1, 4, 3, 7) * 3 + 1, 1 + 0.5 * cases.noise(2, 7), cases.noise(3, 7)


def torch_layer_norm(x: NumpyArray, gain: NumpyArray, bias: NumpyArray) -> NumpyArray:
    import torch

    layer = torch.nn.LayerNorm(7)
    layer.load_state_dict({"weight": torch.tensor(gain), "bias": torch.tensor(bias)})
    with torch.no_grad():
        return layer(torch.tensor(x, dtype=torch.float32)).numpy()


def mlx_layer_norm(x: NumpyArray, gain: NumpyArray, bias: NumpyArray) -> NumpyArray:
    import mlx.core as mx
    from mlx import nn

    layer = nn.LayerNorm(7)
    single = [mx.array(a, dtype=mx.float32) for a in (x, gain, bias)]
    layer.load_weights([("weight", single[1]), ("bias", single[2])], strict=True)
    return np.array(layer(single[0]))


@pytest.mark.parametrize("framework", LAYERS)
def test_our_layer_norm_is_the_frameworks(framework: str, engine: Engine) -> None:
    need(framework)
    own = {"torch": torch_layer_norm, "mlx": mlx_layer_norm}[framework]
    want, got = own(*norm_arrays()), our_layer_norm(engine, *norm_arrays())
    assert_close(framework, want, got, "outputs", "float32", "own")


def test_our_layer_norm_is_the_oracles_even_where_the_variance_is_small(engine: Engine) -> None:
    """The epsilon shows where the variance does not: 1e-5 inside the root, not beside it."""
    x, gain, bias = norm_arrays()
    small = cases.exact(x * 1e-3)
    want = oracle.layer_norm(small, gain, bias)
    got = our_layer_norm(engine, small, gain, bias)
    assert_close("small", want, got, "outputs", engine.dtype, "oracle")
    flat = our_layer_norm(engine, np.zeros((2, 7)), gain, bias)
    assert np.array_equal(flat, np.stack([bias, bias]).astype(engine.dtype))
