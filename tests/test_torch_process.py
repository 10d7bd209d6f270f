"""PyTorch's settings of the process are the user's: ours hold while our code runs."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest

from fwt import backends
from fwt.fwcore.spec import TrainSpec
from fwt.fwcore.training.batches import Split
from tests import cases
from tests.cli_tools import python

TRAIN = """
import sys
import numpy as np
from fwt import backends
from fwt.backends.contract import compile_population
from fwt.fwcore.training.batches import Split
from fwt.fwcore.spec import TrainSpec
from tests import cases
spec, train = cases.core_only({"kind": "lstm", "size": 4}, 3), TrainSpec(steps=1)
params, data = cases.params_of(spec), Split(cases.noise(1, 5, 4, 3), np.array([0, 1, 1, 0, 1]))
backend, rows = backends.load("torch"), np.arange(4)
lone = backend.compile(spec, params, device="cpu")
lone.begin_training(train, data)
lone.fetch([lone.train_step(rows, 1e-3, None)])
both = compile_population(backend, [spec] * 2, [params] * 2, device="cpu")
both.begin_training([train] * 2, data)
both.fetch([both.train_step(np.stack([rows, rows]), np.full(2, 1e-3), None)])
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
EXPORT = """
import warnings
warnings.simplefilter("error")
import torch, numpy as np
from fwt import backends
from fwt.fwcore.spec import ModelSpec
made = backends.load("torch")
torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
with torch.backends.cudnn.flags(enabled=True):
    pass
print(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
"""


def settings() -> list[Any]:
    import torch

    b: Any = torch.backends
    kinds = (b, b.cuda.matmul, b.cudnn, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul)
    old = (torch.get_float32_matmul_precision(), b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32)
    return [*(kind.fp32_precision for kind in kinds), *old]


def test_what_asks_for_the_older_settings_works_after_a_load():
    done = python(EXPORT)
    assert (done.code, done.out) == (0, "highest True\n"), done.err


def test_training_imports_no_compiler():
    """PyTorch's takes as long to import as PyTorch itself."""
    done = python(TRAIN)
    assert (done.code, done.out) == (0, "[]\n"), done.err


@pytest.fixture(name="user", params=["highest", "high"])
def _user(request):
    """The settings as a user made them."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield settings()
    torch.set_float32_matmul_precision(before)


SPEC = cases.core_only({"kind": "lstm", "size": 4}, 3)
X, Y = cases.noise(1, 5, 4, 3), np.array([0, 1, 1, 0, 1])
CALLS = {
    "forward": lambda made: made.forward(X),
    "states": lambda made: made.states(X),
    "trace": lambda made: made.trace(X),
    "gradients": lambda made: made.gradients(X, Y),
    "evaluate": lambda made: made.evaluate(X, Y),
    "train_step": lambda made: made.train_step(np.arange(4), 1e-3, None),
}


@pytest.mark.parametrize(("precision", "mode"), [("highest", "ieee"), ("tf32", "tf32")])
@pytest.mark.parametrize("call", CALLS)
def test_a_precision_holds_in_our_calls_and_the_users_comes_back(
    monkeypatch, user, precision, mode, call
):
    import torch

    made = backends.load("torch", precision).compile(SPEC, cases.params_of(SPEC), device="cpu")
    made.begin_training(TrainSpec(steps=1), Split(X, Y))
    seen, tensor = set(), made._tensor

    def look(array):
        b: Any = torch.backends
        seen.update(p.fp32_precision for p in (b, b.cuda.matmul, b.cudnn, b.mkldnn.matmul))
        return tensor(array)

    monkeypatch.setattr(made, "_tensor", look)
    CALLS[call](made)
    # what a user sets for oneDNN alone is not touched
    assert seen - {settings()[5]} == {mode} - {settings()[5]}
    assert settings() == user


def test_an_error_in_a_call_leaves_the_users_precision(monkeypatch, user):
    made = backends.load("torch").compile(SPEC, cases.params_of(SPEC), device="cpu")
    monkeypatch.setattr(made, "_tensor", lambda array: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.forward(X)
    assert settings() == user


def test_of_calls_on_two_threads_the_last_brings_the_users_precision_back(user):
    import torch

    from fwt.backends.torch.precision import products

    shared: Any = torch.backends
    first_left, both = Barrier(2), Barrier(2)

    def leave_last():
        with products("ieee"):
            both.wait()
            first_left.wait()

    thread = Thread(target=leave_last)
    thread.start()
    with products("ieee"):
        both.wait()
    assert shared.fp32_precision == "ieee"
    first_left.wait()
    thread.join()
    assert settings() == user
