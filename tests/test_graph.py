"""A recorded training step makes the updates of the plain loop, from the state it was given.

Only capture and replay need a GPU: everything else runs here with a recorder that replays a step
by running it, and the same tests run with the real one where there is a CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fwt.backends.torch.graph import WARM_UPS, Body, CudaRecorder, StepGraph
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training.batches import Dropout
from tests.cases import noise
from tests.tolerances import assert_close

# exact in float32, so that a learning rate as an array is the same number
RATES = (0.5, 0.25, 0.125, 0.0625)


class Rerun:
    """A recorder that runs the step where a graph would replay it."""

    def __init__(self) -> None:
        self.recorded = self.warmed = 0

    def warm_up(self, body: Body) -> None:
        for _ in range(WARM_UPS):
            body()
        self.warmed += 1

    def record(self, body: Body) -> Body:
        self.recorded += 1
        result = torch.zeros(3)
        return lambda: result.copy_(body())


class Breaks(Rerun):
    def warm_up(self, body: Body) -> None:
        super().warm_up(body)
        raise RuntimeError("no memory left")


class Model:
    """Two weights, a training split of 16 examples, and the step on given rows."""

    def __init__(self, device: str = "cpu") -> None:
        self.w = torch.nn.Parameter(torch.tensor(noise(1, 4, 3), dtype=torch.float32).to(device))
        self.b = torch.nn.Parameter(torch.tensor(noise(2, 3), dtype=torch.float32).to(device))
        self.inputs = torch.tensor(noise(3, 16, 4), dtype=torch.float32).to(device)
        self.targets = torch.tensor(noise(4, 16, 3), dtype=torch.float32).to(device)
        groups = [{"params": [self.w], "weight_decay": 0.1}, {"params": [self.b]}]
        on_gpu = device != "cpu"
        self.adam = torch.optim.AdamW(groups, lr=1.0, fused=True, capturable=on_gpu)
        self.places: list[tuple[int | None, ...]] = []

    def update(self, rows: Tensor, inputs: Tensor | None, hidden: Tensor | None) -> Tensor:
        self.places.append(tuple(a if a is None else a.data_ptr() for a in (rows, inputs, hidden)))
        self.adam.zero_grad(set_to_none=True)
        x = self.inputs.index_select(0, rows)
        scores = (x if inputs is None else x * inputs) @ self.w + self.b
        gap = (scores if hidden is None else scores * hidden) - self.targets.index_select(0, rows)
        loss = (gap**2).mean()
        torch.autograd.backward(loss)
        self.adam.step()
        return torch.stack([loss.detach(), gap.detach().sum(), gap.detach().max()])

    def plain(self, rows: NumpyArray, lr: float, dropout: Dropout | None) -> Tensor:
        for group in self.adam.param_groups:
            group["lr"] = torch.tensor(lr, device=self.w.device)
        arrays = [rows, *(dropout or (None, None))]
        device = self.w.device
        return self.update(*(a if a is None else torch.tensor(a).to(device) for a in arrays))

    def load(self, step: float) -> None:
        """Moments as if `step` updates had been made, in arrays of their own."""
        for seed, weight in enumerate((self.w, self.b)):
            moment = torch.tensor(noise(seed, *weight.shape), dtype=torch.float32)
            self.adam.state[weight] = {
                "step": torch.tensor(step).to(weight.device),
                "exp_avg": moment.to(weight.device),
                "exp_avg_sq": (moment**2).to(weight.device),
            }

    def state(self) -> dict[str, NumpyArray]:
        """Weights, moments and step counts."""
        found: dict[str, NumpyArray] = {}
        for name, weight in (("w", self.w), ("b", self.b)):
            found[name] = weight.detach().cpu().numpy().copy()
            for part, value in self.adam.state.get(weight, {}).items():
                found[f"{name}.{part}"] = value.cpu().numpy().copy()
        return found


def batches(count: int = 4, size: int = 5) -> list[NumpyArray]:
    random = np.random.default_rng(0)
    return [random.permutation(16)[:size] for _ in range(count)]


def masks(seed: int, size: int = 5) -> Dropout:
    return Dropout(*(noise(seed + n, size, n).astype(np.float32) for n in (4, 3)))


def run(step: Callable[..., Tensor], dropout: bool = False) -> NumpyArray:
    stats = [
        step(rows, lr, masks(int(rows[0])) if dropout else None)
        for rows, lr in zip(batches(), RATES, strict=True)
    ]
    return torch.stack(stats).cpu().numpy()


def same(want: dict[str, NumpyArray], got: dict[str, NumpyArray]) -> None:
    assert want.keys() == got.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


# --- with the stand-in --------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_updates_are_those_of_the_plain_loop(loaded: bool, dropout: bool) -> None:
    plain, model = Model(), Model()
    if loaded:
        plain.load(7.0)
        model.load(7.0)
    want = run(plain.plain, dropout)
    got = run(StepGraph(model.adam, model.update, Rerun()), dropout)
    np.testing.assert_array_equal(got, want)
    same(plain.state(), model.state())
    assert plain.state()["w.step"] == len(RATES) + 7 * loaded


def test_one_recording_serves_all_steps_and_its_arrays_never_move() -> None:
    model, recorder = Model(), Rerun()
    run(StepGraph(model.adam, model.update, recorder), dropout=True)
    assert (recorder.warmed, recorder.recorded) == (1, 1)
    assert len(set(model.places)) == 1
    assert None not in model.places[0]


def test_another_batch_or_other_masks_record_anew() -> None:
    plain, model, recorder = Model(), Model(), Rerun()
    step = StepGraph(model.adam, model.update, recorder)
    no_inputs = Dropout(None, masks(0).hidden)
    given = [(5, None), (4, None), (5, masks(0)), (5, no_inputs), (5, no_inputs), (5, None)]
    for size, dropout in given:
        rows = batches(1, size)[0]
        want = plain.plain(rows, 0.5, dropout)
        np.testing.assert_array_equal(step(rows, 0.5, dropout).numpy(), want.numpy())
    same(plain.state(), model.state())
    assert recorder.recorded == 5


def test_statistics_are_not_overwritten_by_the_next_step() -> None:
    model = Model()
    step = StepGraph(model.adam, model.update, Rerun())
    first = step(batches()[0], 0.5, None)
    before = first.numpy().copy()
    second = step(batches()[1], 0.5, None)
    np.testing.assert_array_equal(first.numpy(), before)
    assert not np.array_equal(second.numpy(), before)


def test_given_arrays_may_change_after_the_call() -> None:
    plain, model = Model(), Model()
    step = StepGraph(model.adam, model.update, Rerun())
    rows = batches()[0]
    own = rows.copy()
    step(own, 0.5, None)
    own[:] = 0
    plain.plain(rows, 0.5, None)
    same(plain.state(), model.state())


def test_weights_changed_in_place_are_used() -> None:
    plain, model = Model(), Model()
    step = StepGraph(model.adam, model.update, Rerun())
    for one, make in ((plain, plain.plain), (model, step)):
        make(batches()[0], 0.5, None)
        with torch.no_grad():
            one.w.copy_(torch.tensor(noise(9, 4, 3)))
        make(batches()[1], 0.5, None)
    same(plain.state(), model.state())


def test_reset_records_anew_with_the_arrays_that_are_there_then() -> None:
    plain, model, recorder = Model(), Model(), Rerun()
    step = StepGraph(model.adam, model.update, recorder)
    for one, make in ((plain, plain.plain), (model, step)):
        make(batches()[0], 0.5, None)
        one.load(30.0)
    step.reset()
    plain.plain(batches()[1], 0.5, None)
    step(batches()[1], 0.5, None)
    same(plain.state(), model.state())
    assert recorder.recorded == 2


def test_a_recording_that_fails_leaves_the_state_as_it_was() -> None:
    model, recorder = Model(), Breaks()
    model.load(7.0)
    before = model.state()
    step = StepGraph(model.adam, model.update, recorder)
    for _ in range(2):  # and it is tried again
        with pytest.raises(RuntimeError, match="no memory left"):
            step(batches()[0], 0.5, None)
    same(before, model.state())
    assert recorder.recorded == 0


# --- with CUDA ----------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_cuda
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_cuda_graph_makes_the_updates_of_the_plain_loop(loaded: bool, dropout: bool) -> None:
    plain, model = Model("cuda"), Model("cuda")
    if loaded:
        plain.load(7.0)
        model.load(7.0)
    want = run(plain.plain, dropout)
    got = run(StepGraph(model.adam, model.update, CudaRecorder(torch.device("cuda"))), dropout)
    assert_close("statistics", want, got, "updates", "float32", "oracle")
    found = model.state()
    for name, array in plain.state().items():
        assert_close(name, array, found[name], "updates", "float32", "oracle")
    assert len(model.places) == WARM_UPS + 1, "a replay runs no Python"


@needs_cuda
def test_cuda_graph_waits_for_nothing_after_the_first_step() -> None:
    model = Model("cuda")
    step: Any = StepGraph(model.adam, model.update, CudaRecorder(torch.device("cuda")))
    step(batches()[0], 0.5, masks(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        stats = [step(rows, 0.5, masks(0)) for rows in batches()]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(torch.stack(stats).cpu().numpy()).all()
