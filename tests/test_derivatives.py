"""PyTorch's operators under every kind of differentiation: right, or refused by name; never 0."""

from __future__ import annotations

from typing import Any

import pytest

from fwt.fwcore.errors import ConfigError
from tests import cases, operators
from tests.conftest import engine
from tests.operators import ARGUMENTS, FAST, OPERATORS, Operator
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

# torch's own, as it loads what forward mode needs
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

each = pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
MODELS = ("fast-sum-final-boundary-S3-levels", "lstm-none", "alstm-3", "convnet", "gru-none")


def differentiable(operator: Operator, given: list[Any]) -> tuple[Any, list[Any]]:
    """The operator as a function of the arguments that have a derivative, and these."""
    places = operators.leaves(given)

    def call(*free: Any) -> Any:
        whole = list(given)
        for place, array in zip(places, free, strict=True):
            whole[place] = array
        return operator.call(*whole)

    return call, [given[place].clone().requires_grad_() for place in places]


# PyTorch knows how gradients of a layer norm go forward where `__debug__` holds alone
needs_debug = pytest.mark.skipif(not __debug__, reason="PyTorch: not below python -O")


@needs_debug
@each
def test_forward_mode_and_batches_of_it(operator: Operator) -> None:
    call, free = differentiable(operator, ARGUMENTS[operator]())
    assert torch.autograd.gradcheck(
        call, free, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )


@needs_debug
@each
def test_gradients_of_gradients(operator: Operator) -> None:
    """Reverse over reverse, and forward over reverse."""
    call, free = differentiable(operator, ARGUMENTS[operator]())
    assert torch.autograd.gradgradcheck(call, free, check_fwd_over_rev=True)


@pytest.mark.parametrize("variant", [{"inner": 0}, {"norm": False, "rate": 0.05}, {"wipe": True}])
def test_every_variant_of_the_fused_core_in_forward_mode(variant: dict[str, Any]) -> None:
    call, free = differentiable(FAST, operators.fast_weights(**variant))
    assert torch.autograd.gradcheck(call, free, check_forward_ad=True)


@each
def test_the_outputs_are_the_operators_own_where_nothing_more_is_asked(operator: Operator) -> None:
    given = ARGUMENTS[operator]()
    call, free = differentiable(operator, given)
    plain = operator.call(*given)
    for found in (call(*free), torch.func.jvp(call, tuple(free), tuple(free))[0]):
        for want, got in zip(plain, found, strict=True):
            assert_close("outputs", want, got.detach(), "outputs", "float64", "self")


@each
@pytest.mark.parametrize("how", ["gradient", "tangent", "func"])
def test_an_operator_of_gradients_has_none_and_says_which_has(operator: Operator, how: str) -> None:
    gradient = operator.run(backward=True)
    first, *rest = operators.gradient_of(operator)
    error = pytest.raises(
        ConfigError, match=rf"fwt::{operator.name}_backward: .* differentiate fwt::{operator.name},"
    )
    with error:
        if how == "gradient":
            gradient(first.clone().requires_grad_(), *rest)
        elif how == "func":
            torch.func.grad(lambda a: gradient(a, *rest)[1].sum())(first)
        else:
            with torch.autograd.forward_ad.dual_level():
                gradient(torch.autograd.forward_ad.make_dual(first, first), *rest)
    assert all(torch.isfinite(a).all() for a in gradient(first, *rest))


# --- models -------------------------------------------------------------------------------


def score(variant: str) -> tuple[Any, Any]:
    """A number of the whole model as a function of its input, and an input."""
    inputs = cases.inputs_of(variant, 3)
    spec = cases.core_only(cases.core_of(variant, 3), inputs)
    made = engine("torch", "float64").compile(spec, cases.params_of(spec))
    fixed = {name: value.detach() for name, value in made.module.named_parameters()}

    def call(x: Any) -> Any:
        return torch.func.functional_call(made.module, fixed, (x,)).pow(2).sum()

    return call, torch.from_numpy(cases.noise(1, 1, 3, inputs))


@pytest.mark.parametrize("variant", MODELS)
def test_all_ways_to_differentiate_a_model_agree(variant: str) -> None:
    call, x = score(variant)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(call(leaf), leaf)
    direction = torch.from_numpy(cases.noise(2, *x.shape))
    found = {
        "grad": torch.func.grad(call)(x),
        "jacrev": torch.func.jacrev(call)(x),
        "jacfwd": torch.func.jacfwd(call)(x),
    }
    for name, got in found.items():
        assert_close(name, want, got, "gradients", "float64", "self")
    along = torch.func.jvp(call, (x,), (direction,))[1]
    assert_close("jvp", (want * direction).sum(), along, "gradients", "float64", "self")


@needs_debug
@pytest.mark.parametrize("variant", MODELS)
def test_second_derivatives_of_a_model_agree(variant: str) -> None:
    call, x = score(variant)
    direction = torch.from_numpy(cases.noise(2, *x.shape))
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(call(leaf), leaf, create_graph=True)
    (want,) = torch.autograd.grad((first * direction).sum(), leaf)
    got = torch.func.jvp(torch.func.grad(call), (x,), (direction,))[1]
    assert_close("hessian", want, got, "gradients", "float64", "self")
    assert want.abs().max() > 1e-3
