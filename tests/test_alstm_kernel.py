"""The A-LSTM's step in C++ in place of eq. 1 to 3: outputs, final states and every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fwt.fwcore import model
from fwt.fwcore.cells import alstm as equations
from tests import cases
from tests.conftest import engine
from tests.loop_results import hold, loop_results

torch = pytest.importorskip("torch")

INPUTS = 5
# (R, N copies, B, T): one complex number, fewer than a register holds, a whole number of registers,
# some left over; one copy and many
SHAPES = [(2, 1, 1, 1), (2, 4, 3, 3), (6, 1, 2, 4), (16, 3, 5, 2), (22, 7, 2, 3), (100, 4, 3, 5)]


def compiled(size: int, copies: int, dtype: str, times: float = 1.0) -> Any:
    spec = cases.core_only({"kind": "alstm", "size": size, "copies": copies}, INPUTS)
    params = {name: array * times for name, array in cases.params_of(spec).items()}
    return engine("torch", dtype).compile(spec, params)


def start(size: int, copies: int, batch: int) -> dict[str, Any]:
    memories = (batch, copies, size // 2)
    return {
        "h": cases.noise(7, batch, size),
        "c_real": cases.noise(8, *memories),
        "c_imag": cases.noise(9, *memories),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("from_zeros", [True, False])
@pytest.mark.parametrize("times", [0.1, 3.0])  # all complex numbers within 1; most of them beyond
@pytest.mark.parametrize(("size", "copies", "batch", "time"), SHAPES)
def test_it_holds_the_equations(
    size: int, copies: int, batch: int, time: int, times: float, from_zeros: bool, dtype: str
) -> None:
    from fwt.backends.torch.kernels import alstm

    on = compiled(size, copies, dtype, times)
    given = {} if from_zeros else start(size, copies, batch)
    x = cases.noise(1, batch, time, INPUTS)
    want, got = (loop_results(on, loop, x, given) for loop in (model.unroll, alstm.unroll))
    hold(want, got, dtype)
    assert {"h", "c_real", "c_imag", "gradient of core.wh", "gradient of x"} <= want.keys()


def test_permutations_are_those_of_the_equations() -> None:
    from fwt.backends.torch.kernels.alstm import places

    row = np.arange(11.0)
    want = (row @ equations.permutations(11, 3)).reshape(3, 11)
    assert np.array_equal(row[places(11, 3).numpy()], want)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("part", range(9))
def test_what_is_not_finite_is_not_hidden(part: int, wrong: float) -> None:
    """In any part of `pre`; 1e30 is finite, and its square is not."""
    from fwt.backends.torch.kernels import alstm
    from fwt.backends.torch.ops import TorchOps

    half, copies = 4, 2
    spec = equations.Spec(size=2 * half, copies=copies)
    pre = torch.from_numpy(cases.noise(3, 2, 9 * half)).float()
    pre[1, part * half + 1] = wrong
    old = equations.Complex(*(torch.from_numpy(cases.noise(i, 2, 2, half)).float() for i in (4, 5)))
    want = equations.associate(TorchOps(torch.device("cpu"), torch.float32), spec, pre, old)
    h, *c, _ = alstm.associate(pre, *old)
    pairs = [(h, want.h), (c[0], want.c.real), (c[1], want.c.imag)]
    lost = not all(torch.isfinite(wanted).all() for _, wanted in pairs)
    assert lost == (not np.isfinite(wrong) and (part > 2 or np.isnan(wrong)))
    if lost:  # the equations spread it by products with 0, a row of places does not
        assert not all(torch.isfinite(got[1]).all() for got, _ in pairs)
    for got, wanted in pairs:
        kept = slice(0, 1) if lost else slice(None)
        torch.testing.assert_close(got[kept], wanted[kept])


def test_many_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from fwt.backends.torch.kernels import library

    monkeypatch.setattr(library, "SMALL", 0)
    made = compiled(22, 3, "float32")
    x, targets = cases.noise(1, 13, 3, INPUTS), np.arange(13) % 2
    results = []
    for count in (1, 3):  # of ours; the framework's products may differ with theirs
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        gradient = made.gradients(x, targets)[1]["core.bias"]
        results.append([made.states(x)[0].tobytes(), gradient.tobytes()])
    assert results[0] == results[1]
