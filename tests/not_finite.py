"""What is not a number in an input: variants of the fused core, and how results are held."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests import operators
from tests.operators import FAST

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


def spoiled(given: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The arguments with one number spoiled: each array, its first number and one in its middle."""
    for place, wrong in product(operators.leaves(given), WRONG):
        if given[place].numel() == 1 and wrong == -INF:
            continue  # a decay or a rate: forms take its logarithm, or its power
        for at in {0, given[place].numel() // 2}:
            found = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
            found[place].view(-1)[at] = wrong
            yield f"{wrong} at {at} of argument {place}", found


def hidden(label: str, forms: list[dict[str, Any]], got: dict[str, Any]) -> None:
    """No result is finite where no form of the equations is."""
    for name, found in got.items():
        finite = torch.stack([torch.isfinite(form[name]) for form in forms])
        places = (torch.isfinite(found) & ~finite.any(0)).nonzero().tolist()
        assert not places, f"{label}: {name} hides it at {places}"


def hold(label: str, forms: list[dict[str, Any]], got: dict[str, Any]) -> None:
    """A result may be finite only where a form of the equations is, and is what all of them are.

    The forms multiply in another order, so that they differ in what 0 times infinity meets.
    """
    hidden(label, forms, got)
    for name, found in got.items():
        finite = torch.stack([torch.isfinite(form[name]) for form in forms])
        first, *others = (form[name] for form in forms)
        sure = finite.all(0) & torch.stack([torch.isclose(first, o) for o in others]).all(0)
        torch.testing.assert_close(found[sure], first[sure], msg=f"{label}: {name}")


def forms_of(given: list[Any]) -> list[dict[str, Any]]:
    """`results` by the forms of the equations that multiply in another order."""
    from fwt.backends.torch.kernels.fused import operator

    plan, found = operator.memory.plan, []
    for form in ("matrix", "attention"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operator.memory, "plan", lambda _, *a, form=form: plan(form, *a))
            found.append(results(FAST.equations, given))
    return found
