"""MLX's fused core, as a loop and as kernels: what is not a number stays, as in the equations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests import operators
from tests.conftest import need
from tests.mlx_stand_in import StandIn
from tests.not_finite import FLAT, VARIANTS, forms_of, hold, spoiled
from tests.not_finite import results as equations
from tests.operators import FAST
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("eager")

TimeLoop = Callable[[Any], Callable[[Any], Any]]
NAMES = {"z": 0, "w": 1, "gain": 7, "bias": 8}  # and their places among the operator's arguments


@pytest.fixture(scope="module", name="kernels")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("kernels"), "float64", [(3, 2)])


def results(loop: TimeLoop, given: list[Any]) -> dict[str, Any]:
    """As `not_finite.results` names them: outputs, and gradients but those of decay and rate."""
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused.loop import Schedule
    from fwt.fwcore.cells.common import LAYER_NORM_EPSILON

    z, w, which, stores, wipe, inner, norm, gain, bias, decay, rate, chunk = given
    chunk = min(chunk, z.shape[2])
    schedule = Schedule(
        tuple(which.tolist()),
        tuple(stores.tolist()),
        wipe,
        inner,
        LAYER_NORM_EPSILON if norm else None,
        chunk,
    )

    def array(tensor: Any) -> Any:
        return mx.array(np.ascontiguousarray(tensor.numpy()), dtype=mx.float64)

    powers = decay.numpy() ** np.arange(chunk + 1.0)
    tree: dict[str, Any] = {"z": array(z[0].transpose(0, 1)), "w": [array(part) for part in w[0]]}
    tree["weights"] = mx.array(rate.numpy() * powers[-2::-1], dtype=mx.float64)[:, None, None]
    tree["powers"] = mx.array(powers, dtype=mx.float64)
    if norm:
        tree |= {"gain": array(gain[0]), "bias": array(bias[0])}
    factors = array(operators.tensor(20, *z.shape)[0].transpose(0, 1))

    def measure(p: Any) -> Any:
        found = loop(schedule)(p)
        return mx.sum(found["outputs"] * factors), found["outputs"]

    (_, outputs), slopes = mx.value_and_grad(measure)(tree)
    slopes["w"] = mx.stack(slopes["w"])
    found = {"output 0": outputs, **{f"gradient {NAMES[k]}": slopes[k] for k in NAMES if k in tree}}
    named = {name: torch.from_numpy(np.array(a))[None] for name, a in found.items()}
    for name in ("output 0", "gradient 0"):
        named[name] = named[name].transpose(1, 2)
    return named


def time_loop(kind: str, kernels: StandIn) -> TimeLoop:
    need("mlx")
    from fwt.backends.mlx.kernels.fused import kernel, loop

    found: dict[str, TimeLoop] = {
        "loop": loop.time_loop,
        "kernel": partial(kernel.time_loop, run=kernels.on(2)),
    }
    return found[kind]


@pytest.mark.parametrize("kind", ["loop", "kernel"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_core(variant: str, kind: str, kernels: StandIn) -> None:
    chosen = time_loop(kind, kernels)
    for label, given in spoiled(operators.fast_weights(**VARIANTS[variant])):
        hold(label, forms_of(given), results(chosen, given))


@pytest.mark.parametrize("kind", ["loop", "kernel"])
@pytest.mark.parametrize(("decay", "rate"), [(0, 0.3), (0.8, 0), (0, 0), (1, 0.3)])
def test_gradients_where_decay_or_rate_is_0_or_1(
    decay: float, rate: float, kind: str, kernels: StandIn
) -> None:
    given = operators.fast_weights(**FLAT, inner=3, decay=decay, rate=rate)
    want, got = equations(FAST.equations, given), results(time_loop(kind, kernels), given)
    for name, array in got.items():
        assert_close(name, want[name], array, "gradients", "float64", "self", 1.0)
