"""What is not a number in any input of a kernel is in its results where the equations have it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests import operators
from tests.operators import ASSOCIATE, CONVOLUTION, FAST, Operator
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

NAN, INF = float("nan"), float("inf")
WRONG = (NAN, INF, -INF)
FLAT = {"steps": 5, "size": 3, "stores": [True] * 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "norm": {**FLAT, "chunk": 5},
    "plain": {**FLAT, "chunk": 5, "norm": False, "rate": 0.1},
    "S0": {**FLAT, "inner": 0},
    "S0-plain": {**FLAT, "inner": 0, "norm": False},
    "S3-borders": {**FLAT, "inner": 3, "chunk": 2, "norm": False, "rate": 0.05},
    "gated": {"steps": 5, "size": 3, "chunk": 2, "norm": False, "rate": 0.1},
    "late": {**FLAT, "chunk": 2, "norm": False, "stores": [False, False, False, True, True]},
    "wipe": {"steps": 5, "size": 3, "chunk": 2, "norm": False, "wipe": True, "rate": 0.1},
    "wipe-always": {**FLAT, "wipe": True},
    "one-step": {"steps": 1, "size": 3, "stores": [True], "norm": False},
}


def results(call: Any, given: list[Any]) -> dict[str, Any]:
    """Outputs and gradients of a weighted sum of them."""
    whole = list(given)
    for place in operators.leaves(given):
        whole[place] = given[place].clone().requires_grad_()
    outputs = call(*whole)
    factors = [operators.tensor(20 + i, *a.shape) for i, a in enumerate(outputs)]
    total = sum((a * f).sum() for a, f in zip(outputs, factors, strict=True))
    free = [whole[place] for place in operators.leaves(given)]
    slopes = torch.autograd.grad(total, free, allow_unused=True, materialize_grads=True)
    named = {f"output {i}": a.detach() for i, a in enumerate(outputs)}
    return named | {
        f"gradient {i}": a for i, a in zip(operators.leaves(given), slopes, strict=True)
    }


def cases_of(operator: Operator, given: list[Any]) -> Any:
    """The arguments with one number spoiled: each array, its first number and one in its middle."""
    for place, wrong in product(operators.leaves(given), WRONG):
        if given[place].numel() == 1 and wrong == -INF:
            continue  # a decay or a rate: forms take its logarithm, or its power
        for at in {0, given[place].numel() // 2}:
            spoiled = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
            spoiled[place].view(-1)[at] = wrong
            yield f"{wrong} at {at} of argument {place}", spoiled


def hold(label: str, forms: list[dict[str, Any]], got: dict[str, Any]) -> None:
    """A result may be finite only where a form of the equations is, and is what all of them are.

    The forms multiply in another order, so that they differ in what 0 times infinity meets.
    """
    for name, found in got.items():
        finite = torch.stack([torch.isfinite(form[name]) for form in forms])
        hidden = torch.isfinite(found) & ~finite.any(0)
        assert not hidden.any(), f"{label}: {name} hides it at {hidden.nonzero().tolist()}"
        first, *others = (form[name] for form in forms)
        sure = finite.all(0) & torch.stack([torch.isclose(first, o) for o in others]).all(0)
        torch.testing.assert_close(found[sure], first[sure], msg=f"{label}: {name}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_core(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.torch.fused import operator

    plan = operator.memory.plan
    for label, given in cases_of(FAST, operators.fast_weights(**VARIANTS[variant])):
        forms = []
        for form in ("matrix", "attention"):
            monkeypatch.setattr(operator.memory, "plan", lambda _, *a, form=form: plan(form, *a))
            forms.append(results(FAST.equations, given))
        hold(label, forms, results(FAST.call, given))


@pytest.mark.parametrize("operator", [ASSOCIATE, CONVOLUTION], ids=lambda o: o.name)
def test_operators_that_the_equations_write_with_products_by_0(operator: Operator) -> None:
    """By sequence or picture, or by array where all of them share it.

    The equations permute, and pick what lies under a kernel, by products with 0 and 1, which
    spread what is not a number over all that they did not pick.
    """
    given = operators.ARGUMENTS[operator]()
    shared = set() if operator is ASSOCIATE else {"gradient 1", "gradient 2"}
    for label, spoiled in cases_of(operator, given):
        want, got = (results(call, spoiled) for call in (operator.equations, operator.call))
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
    from fwcore import model
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
