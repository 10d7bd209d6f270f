"""MLX's fused core in forward mode and for gradients of gradients: those of the equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import cases
from tests.conftest import engine, need
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("eager")

INPUTS = 4


def score(variant: str, form: str) -> Callable[[Any], Any]:
    """A number of the whole model as a function of its input."""
    import mlx.core as mx

    spec = cases.core_only(cases.core_of(variant, 5), INPUTS)
    made: Any = engine("mlx", "float64").compile(spec, cases.params_of(spec), form)
    return lambda x: mx.sum(made.module(x) ** 2)


@pytest.mark.parametrize(
    "variant", ["fast-sum-final-boundary-S1-flat", "fast-sum-final-boundary-S3-levels"]
)
def test_along_a_direction(variant: str) -> None:
    need("mlx")
    import mlx.core as mx

    shape = (2, 4, INPUTS)
    x, along = (mx.array(cases.noise(seed, *shape), dtype=mx.float64) for seed in (1, 2))
    found = {}
    with mx.stream(mx.cpu):
        for form in ("matrix", "fused"):
            call = score(variant, form)

            def slope(y: Any, call: Any = call) -> Any:
                return mx.sum(mx.grad(call)(y) * along)

            _, (first,) = mx.jvp(call, [x], [along])
            found[form] = {"jvp": first, "gradient": slope(x), "second": mx.grad(slope)(x)}
            mx.eval(found[form])
    for name, want in found["matrix"].items():
        assert_close(name, want, found["fused"][name], "gradients", "float64", "self")
    assert_close(
        "jvp", found["fused"]["gradient"], found["fused"]["jvp"], "gradients", "float64", "self"
    )
