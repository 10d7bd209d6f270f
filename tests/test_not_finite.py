"""What is not a number in any input of a kernel is in its results where the equations have it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests import operators
from tests.not_finite import FLAT, VARIANTS, WRONG, forms_of, hold, results, spoiled
from tests.operators import ASSOCIATE, CONVOLUTION, FAST, Operator
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_core(variant: str) -> None:
    for label, given in spoiled(operators.fast_weights(**VARIANTS[variant])):
        hold(label, forms_of(given), results(FAST.call, given))


@pytest.mark.parametrize("operator", [ASSOCIATE, CONVOLUTION], ids=lambda o: o.name)
def test_operators_that_the_equations_write_with_products_by_0(operator: Operator) -> None:
    """By sequence or picture, or by array where all of them share it.

    The equations permute, and pick what lies under a kernel, by products with 0 and 1, which
    spread what is not a number over all that they did not pick.
    """
    given = operators.ARGUMENTS[operator]()
    shared = set() if operator is ASSOCIATE else {"gradient 1", "gradient 2"}
    for label, wrong in spoiled(given):
        want, got = (results(call, wrong) for call in (operator.equations, operator.call))
        outputs = [array.flatten(1) for name, array in want.items() if "output" in name]
        whole = torch.isfinite(torch.cat(outputs, 1)).all(1)
        for name, array in want.items():
            rows = array.flatten()[None] if name in shared else array.flatten(1)
            found = got[name].view(rows.shape)
            lost = ~torch.isfinite(rows).all(1)
            assert not torch.isfinite(found[lost]).all(1).any(), f"{label}: {name} hides it"
            sure = whole.all()[None] & ~lost if name in shared else whole & ~lost
            torch.testing.assert_close(found[sure], rows[sure], msg=f"{label}: {name}")


def test_a_stream() -> None:
    from fwt.fwcore import model
    from tests import cases
    from tests.conftest import engine

    for variant in ("fast-none-final-boundary-S1-flat", "fast-sum-final-boundary-S3-store"):
        spec = cases.core_only(cases.core_of(variant, 3), 4)
        made = engine("torch", "float64").compile(spec, cases.params_of(spec))
        for step, wrong in product((0, 2), WRONG):
            x = operators.tensor(1, 2, 5, 4)
            x[0, step, 1] = wrong
            streams = made.stream(2), model.Stream(made.module.ops, spec, made.module.weights(), 2)
            assert type(streams[0]) is not type(streams[1])
            for t in range(5):
                got, want = (stream.step(x[:, t]).detach() for stream in streams)
                torch.testing.assert_close(got, want, equal_nan=True)


# --- rates of 0 ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [5, 2])
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize(("decay", "rate"), [(0, 0.3), (0.8, 0), (0, 0), (1, 0.3), (1, 0)])
def test_gradients_where_decay_or_rate_is_0_or_1(
    decay: float, rate: float, inner: int, chunk: int
) -> None:
    """Sums of what each read gives, not a whole divided by them."""
    given = operators.fast_weights(**FLAT, inner=inner, chunk=chunk, decay=decay, rate=rate)
    want, got = (results(call, given) for call in (FAST.equations, FAST.call))
    for name, array in want.items():
        assert_close(name, array, got[name], "gradients", "float64", "self", 1.0)
    assert (got["gradient 10"] != 0).all(), "the rate's"
    assert (got["gradient 9"] != 0).all() == (rate != 0), "the decay's"


def test_a_trained_rate_too_small_for_its_type() -> None:
    from tests import cases
    from tests.conftest import engine

    core = {**cases.core_of("fast-sum-final-boundary-S1-flat", 3), "trained": True}
    spec = cases.core_only(core, 4)
    params = cases.params_of(spec)
    params["core.log_rate"] -= 200
    x, targets = cases.noise(1, 2, 5, 4), np.array([0, 1])
    found = [
        engine("torch", "float32").compile(spec, params, form).gradients(x, targets)[1]
        for form in ("matrix", "fused")
    ]
    for name, array in found[0].items():
        assert_close(name, array, found[1][name], "gradients", "float32", "self", 1.0)
