"""PyTorch's fused core on this machine against the equations: every output, state and gradient."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fwt.backends.contract import Compiled
from fwt.fwcore import memory
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.fused import uncovered
from tests import cases
from tests.cases import Engine
from tests.conftest import engine
from tests.tolerances import assert_close

SIZE, INPUTS = 5, 4
SHAPES = (
    (2, 7),
    (3, 1),
    (1, 5),
    (9, 20),
)  # T = 1; odd T; B = 1; more sequences than lanes, borders

torch = pytest.importorskip("torch")

COVERED = [
    variant
    for variant in (*cases.FAST, *cases.PORTS)
    if not uncovered(cases.core_only(cases.core_of(variant, SIZE), INPUTS).core)
]


@pytest.fixture(scope="module", params=["float64", "float32"], name="exact")
def _engine(request: pytest.FixtureRequest) -> Engine:
    """PyTorch, where the kernel must have been built: a fallback would test nothing."""
    return engine("torch", request.param)


@cache
def spec_of(
    variant: str, trained: bool = False, size: int = SIZE, rate: float = 0.3
) -> cases.ModelSpec:
    """Three reads at rate 0.5 amplify rounding ten thousand times within 20 steps: lower it."""
    more = {"trained": trained, "rate": rate}
    return cases.core_only({**cases.core_of(variant, size), **more}, INPUTS)


def hold(spec: cases.ModelSpec, on: Engine, batch: int, time: int) -> None:
    """The fused core against A as it is written, both as a whole model with its gradient."""
    params = cases.params_of(spec, spread=0.15)
    x, targets = cases.noise(1, batch, time, INPUTS), np.arange(batch) % 2
    want, got = (on.compile(spec, params, form) for form in ("matrix", "fused"))
    label = f"B={batch} T={time}"
    check_states(label, want.states(x), got.states(x), on.dtype)
    check_gradients(label, want, got, x, targets, on.dtype)


def check_states(label: str, want: Any, got: Any, dtype: str) -> None:
    assert_close(f"{label} hs", want[0], got[0], "outputs", dtype, "self")
    assert want[1].keys() == got[1].keys()
    for name, array in want[1].items():
        assert_close(f"{label} {name}", array, got[1][name], "states", dtype, "self")


def check_gradients(
    label: str, want: Compiled, got: Compiled, x: Any, targets: Any, dtype: str
) -> None:
    (loss, wanted), (other, found) = want.gradients(x, targets), got.gradients(x, targets)
    assert_close(f"{label} loss", loss, other, "loss", dtype, "oracle")
    scale = max(np.abs(array).max() for array in wanted.values())
    for name, array in wanted.items():
        assert_close(f"{label} {name}", array, found[name], "gradients", dtype, "self", scale)


@pytest.mark.parametrize("trained", [False, True], ids=["fixed", "trained"])
@pytest.mark.parametrize("variant", COVERED)
def test_every_output_and_gradient_is_that_of_the_equations(
    variant: str, trained: bool, exact: Engine
) -> None:
    for batch, time in SHAPES:
        rate = cases.VARIANTS[variant]["rate"] / (1 if time < 10 else 5)
        hold(spec_of(variant, trained, rate=rate), exact, batch, time)


@pytest.mark.parametrize("size", [1, 8, 13])
def test_sizes_that_fill_blocks_of_rows_and_sizes_that_do_not(size: int, exact: Engine) -> None:
    hold(spec_of("fast-sum-final-boundary-S3-levels", True, size), exact, 3, 11)


def test_the_shapes_cross_borders_and_fill_lanes() -> None:
    steps = max(time for _, time in SHAPES)
    assert (steps - 1) // memory.chunk_of_fused(steps, SIZE) >= 1, "no border is crossed"
    assert max(batch for batch, _ in SHAPES) > 8, "no second block of float32 lanes"


def test_many_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from fwt.backends.torch.kernels import library

    monkeypatch.setattr(library, "SMALL", 0)
    spec = spec_of("fast-sum-final-boundary-S1-flat", size=40)
    made = engine("torch", "float32").compile(spec, cases.params_of(spec, spread=0.1), "fused")
    x = cases.noise(1, 40, 30, INPUTS)
    found = []
    for count in (1, 3):  # of ours; the framework's products may differ with theirs
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        gradients = made.gradients(x, np.arange(40) % 2)[1]
        core = {n: a for n, a in gradients.items() if "norm" in n}
        found.append([made.states(x)[0].tobytes(), *(a.tobytes() for a in core.values())])
    assert found[0] == found[1]


# --- the operator -------------------------------------------------------------------------


def arguments(chunk: int, norm: bool = True, inner: int = 2, members: int = 2) -> list[Any]:
    """A call of the operator with every option at work: two W, gated writes, wipes."""
    batch, steps, size = 3, 5, 4

    def tensor(seed: int, *shape: int) -> Any:
        return torch.from_numpy(cases.noise(seed, *shape)).requires_grad_()

    which, stores = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([True, False, True, True, True])
    w = (0.4 * tensor(2, members, 2, size, size)).detach().requires_grad_()
    decay = torch.linspace(0.7, 0.9, members, dtype=torch.float64).requires_grad_()
    high = 0.2 if norm else 0.02  # without a norm a large rate makes the numbers explode
    rate = torch.linspace(high, high / 2, members, dtype=torch.float64).requires_grad_()
    z = tensor(1, members, batch, steps, size)
    gain, bias = tensor(3, members, size), tensor(4, members, size)
    return [z, w, which, stores, False, inner, norm, gain, bias, decay, rate, chunk]


@pytest.mark.parametrize("chunk", [5, 2])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("inner", [0, 1, 3])
def test_gradcheck(chunk: int, norm: bool, inner: int) -> None:
    from fwt.backends.torch.kernels.fused.operator import fast_weights as operator

    given = arguments(chunk, norm, inner)
    assert torch.autograd.gradcheck(lambda *args: operator(*args)[0], given)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of opcheck's own copies
@pytest.mark.parametrize("chunk", [5, 2])
def test_opcheck(chunk: int) -> None:
    from torch import library

    from fwt.backends.torch.kernels.fused.operator import fast_weights as operator

    found = library.opcheck(operator, arguments(chunk))
    assert set(found.values()) == {"SUCCESS"}


def test_vmap_is_the_members_one_by_one() -> None:
    from fwt.backends.torch.kernels.fused.operator import fast_weights as operator

    given = arguments(2)
    mapped = [place in (0, 1, 7, 8, 9, 10) for place in range(len(given))]

    def alone(*args: Any) -> Any:
        whole = [a[None] if m else a for a, m in zip(args, mapped, strict=True)]
        return operator(*whole)[0][0]

    wanted = torch.stack(
        [alone(*(a[i] if m else a for a, m in zip(given, mapped, strict=True))) for i in range(2)]
    )
    axes = tuple(0 if m else None for m in mapped)
    got = torch.func.vmap(alone, in_dims=axes)(*given)
    assert torch.equal(wanted, got)
    leaves = [given[i] for i in (0, 1, 7, 8, 9, 10)]
    weights = torch.from_numpy(cases.noise(7, *wanted.shape))
    for a, b in zip(
        torch.autograd.grad((wanted * weights).sum(), leaves),
        torch.autograd.grad((got * weights).sum(), leaves),
        strict=True,
    ):
        assert_close("vmap", a.numpy(), b.numpy(), "gradients", "float64", "self")


# --- the choice ---------------------------------------------------------------------------


def test_auto_takes_it_and_says_so() -> None:
    spec = spec_of("fast-sum-final-boundary-S1-flat")
    described = engine("torch", "float32").compile(spec).describe(3, 11)
    assert (described["memory"], described["kernel"], described["chunk"]) == ("fused", "C++", 11)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("fast-slow-final-boundary-S1-flat", "norm='slow'"),
        ("fast-sum-preliminary-identity-S1-flat", "write='preliminary', sustained='identity'"),
        ("lstm-none", "the model 'lstm' has no fast memory"),
    ],
)
def test_what_it_does_not_cover_is_refused_by_name_and_auto_goes_on(
    variant: str, reason: str
) -> None:
    spec, on = spec_of_any(variant), engine("torch", "float32")
    with pytest.raises(ConfigError, match=reason):
        on.compile(spec, memory="fused")
    assert on.compile(spec).describe(3, 11)["kernel"] != "C++"


def spec_of_any(variant: str) -> cases.ModelSpec:
    return cases.core_only(cases.core_of(variant, SIZE), INPUTS)


def test_bfloat16_stays_with_the_equations() -> None:
    on = engine("torch", "float32").backend
    spec = spec_of("fast-sum-final-boundary-S1-flat")
    with pytest.raises(ConfigError, match="none for dtype bfloat16"):
        on.compile(spec, dtype="bfloat16", memory="fused")
    assert on.compile(spec, dtype="bfloat16").describe(2, 7)["kernel"] == "none"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"find_spec": lambda name: None}, "no C++ compiler when fwt was installed"),
        ({"LEAST": ("AVX9",)}, "this processor has no AVX2"),
    ],
)
def test_without_the_library_the_equations_run_and_it_is_said(
    broken: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwt.backends.torch.kernels import library

    if "LEAST" in broken:
        monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
    for name, value in broken.items():
        monkeypatch.setattr(library, name, value)
    on, spec = engine("torch", "float32"), spec_of("fast-sum-final-boundary-S1-flat")
    assert on.backend.fused()["cpu"].startswith("none: ")
    assert reason in on.backend.fused()["cpu"]
    assert on.compile(spec).describe(3, 11)["kernel"] == "none"
    with pytest.raises(ConfigError) as caught:
        on.compile(spec, memory="fused")
    assert reason in str(caught.value)


def test_a_given_start_state_is_obeyed() -> None:
    """The fused core begins at zero; a state handed over goes through the equations."""
    spec = spec_of("fast-sum-final-boundary-S1-flat")
    made = engine("torch", "float64").compile(spec, cases.params_of(spec))
    x = cases.noise(1, 2, 9, INPUTS)
    whole, final = made.states(x)
    half, between = made.states(x[:, :4])
    rest, end = made.states(x[:, 4:], between, 4)
    assert_close("hs", whole, np.concatenate([half, rest], 1), "outputs", "float64", "self")
    assert_close("A", final["A"], end["A"], "states", "float64", "self")


def test_the_head_sees_the_last_state() -> None:
    spec = spec_of("fast-sum-final-boundary-S1-levels")
    params, x = cases.params_of(spec), cases.noise(1, 3, 7, INPUTS)
    on = engine("torch", "float64")
    want, got = (on.compile(spec, params, form).forward(x) for form in ("matrix", "fused"))
    assert_close("scores", want, got, "logits", "float64", "oracle")
