"""PyTorch's operators called by hand: what cannot be computed is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fwt.fwcore.errors import ConfigError
from tests import operators
from tests.operators import ARGUMENTS, ASSOCIATE, CONVOLUTION, FAST, OPERATORS, Operator

torch = pytest.importorskip("torch")

each = pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
both = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def call(operator: Operator, backward: bool) -> tuple[Any, list[Any]]:
    """An operator, or that of its gradients, with arguments that are right."""
    given = operators.gradient_of(operator) if backward else ARGUMENTS[operator]()
    return operator.run(backward), given


def flat(found: Any) -> list[Any]:
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in found]
    return [array for part in parts for array in part]


def places(given: list[Any]) -> list[int]:
    return [i for i, a in enumerate(given) if isinstance(a, torch.Tensor)]


Change = Callable[[Any], Any]
STRIDED: dict[str, Change] = {
    "columns first": lambda a: a.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every other": lambda a: a.repeat_interleave(2, -1)[..., ::2],
    "not aligned": lambda a: torch.cat([a.new_zeros(1), a.flatten()])[1:].view(a.shape),
}
WRONG: dict[str, Change] = {
    "one more": lambda a: torch.cat([a, a[..., :1]], -1),
    "none": lambda a: a[..., :0],
    "an axis more": lambda a: a[None],
    "flat": lambda a: a.flatten()[:1].sum(),
    "of 16 bits": lambda a: a.to(torch.int16),
    "half precision": lambda a: a.to(torch.bfloat16),
}


@each
@both
@pytest.mark.parametrize("how", STRIDED)
def test_arrays_may_lie_anyhow(operator: Operator, backward: bool, how: str) -> None:
    run, given = call(operator, backward)
    shown = None if backward else operator.results  # what else is kept may have rest in it
    want = flat(run(*given))[:shown]
    for place in places(given):
        if how == "columns first" and given[place].dim() < 2:
            continue
        other = [STRIDED[how](a) if i == place else a for i, a in enumerate(given)]
        for a, b in zip(want, flat(run(*other))[:shown], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@each
@both
@pytest.mark.parametrize("how", WRONG)
def test_another_shape_or_type_is_refused(operator: Operator, backward: bool, how: str) -> None:
    run, given = call(operator, backward)
    for place in places(given):
        if how == "none" and place == 0 and operator is not CONVOLUTION:
            continue  # B, T or R of 0: below
        other = [WRONG[how](a) if i == place else a for i, a in enumerate(given)]
        with pytest.raises(ConfigError) as caught:
            run(*other)
        message = str(caught.value)
        assert message.startswith(("fwt::", "core: ")), message
        assert "expect" in message
        assert "got" in message
        assert "\n" not in message


@each
@both
def test_no_axis_is_of_size_0(operator: Operator, backward: bool) -> None:
    run, given = call(operator, backward)
    for axis in range(given[0].dim()):
        with pytest.raises(ConfigError, match=r"no size 0|=\d|square"):
            run(given[0].narrow(axis, 0, 0), *given[1:])


@both
@pytest.mark.parametrize("which", [[0, 2, 0], [0, -1, 0], [0, 7, 0], [-(10**9), 0, 0]])
def test_a_number_of_no_matrix_is_refused(which: list[int], backward: bool) -> None:
    run, given = call(FAST, backward)
    place = next(i for i, a in enumerate(given) if getattr(a, "dtype", None) == torch.int64)
    given[place] = torch.tensor(which)
    with pytest.raises(ConfigError, match=r"expected which from 0 to 1, got which=\["):
        run(*given)


@both
@pytest.mark.parametrize(
    ("name", "value"), [("inner", -1), ("inner", 1001), ("chunk", 0), ("chunk", -5)]
)
def test_numbers_have_bounds(name: str, value: int, backward: bool) -> None:
    run, given = call(FAST, backward)
    given[-7 if name == "inner" else -1] = value
    with pytest.raises(ConfigError, match=f"expected {name} from . to .*, got {name}={value};"):
        run(*given)


def test_what_was_kept_must_be_all_of_it() -> None:
    run, given = call(FAST, True)
    given[2] = given[2][:3]
    with pytest.raises(ConfigError, match="expected 18 arrays and numbers, got count=16"):
        run(*given)


def test_the_copies_are_those_of_the_memories() -> None:
    """No array of places can be handed over: it follows from N and H, and is in range."""
    pre, real, imag = operators.associate(half=3, copies=4)
    assert torch.ops.fwt.associate(pre, real, imag)[1].shape == (2, 4, 3)
    with pytest.raises(ConfigError, match=r"expected imag of shape \(B, N, H\), B=2, N=4, H=3"):
        torch.ops.fwt.associate(pre, real, imag[:, :3])
    with pytest.raises(ConfigError, match=r"expected pre of shape \(B, 9H\)"):
        torch.ops.fwt.associate(pre[:, 1:], real, imag)
    assert ASSOCIATE.results == 3


@pytest.mark.parametrize("wrong", ["float64", "meta", "list"])
def test_a_stream_is_given_an_array_of_its_own_kind(wrong: str) -> None:
    from tests import cases
    from tests.conftest import engine

    spec = cases.core_only(cases.core_of("fast-sum-final-boundary-S1-flat", 5), 4)
    stream = engine("torch", "float32").compile(spec).stream(2)
    x = torch.zeros(2, 4)
    given = {"float64": x.double(), "meta": x.to("meta"), "list": x.tolist()}[wrong]
    with pytest.raises(ConfigError, match=r"stream\.step: expected x .*, got (dtype|device|type)="):
        stream.step(given)
    assert stream.step(x).shape == (2, 5)
