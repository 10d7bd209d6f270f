"""MLX's GPU kernels: their bodies, run as C++, hold the equations, and no GPU gets them unasked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.fused import choose
from tests import cases, mlx_fused_cases
from tests.conftest import need
from tests.mlx_fused_cases import COVERED, SHAPES, SOME
from tests.mlx_stand_in import StandIn

THREADS = (1, 2, 4)  # fewer than the units of a size, and more
SIZES = [(mlx_fused_cases.SIZE, threads) for threads in THREADS]
CHECKED = [(5, 4), (7, 4)]  # R of every device's check, and of a model

pytestmark = pytest.mark.usefixtures("eager")

Use = Callable[[int], StandIn]


@pytest.fixture(scope="module", name="exact")
def _exact(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("kernels"), "float64", SIZES)


@pytest.fixture(scope="module", name="single")
def _single(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("kernels"), "float32", CHECKED)


@pytest.fixture(name="use")
def _use(exact: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """The fused core runs the kernels' bodies, on a number of threads a sequence."""
    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.kernels.fused import kernel

    loop = partial(kernel.time_loop, run=exact)
    monkeypatch.setattr(fused, "_time_loop", lambda size: loop)
    before = exact.calls
    yield exact.on
    assert exact.calls >= before + 2, "the kernels were not run"


# --- the equations ------------------------------------------------------------------------


@pytest.mark.parametrize("name", COVERED)
def test_kernels_have_the_values_and_gradients_of_the_equations(name: str, use: Use) -> None:
    use(4)
    mlx_fused_cases.hold(name, (2, 7, 100), trained=True)


@pytest.mark.parametrize(("name", "shape"), list(product(SOME, SHAPES)))
def test_any_length_batch_and_chunk(name: str, shape: tuple[int, int, int], use: Use) -> None:
    use(2)
    mlx_fused_cases.hold(name, shape, trained=True)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", SOME)
def test_any_number_of_threads(name: str, threads: int, use: Use) -> None:
    use(threads)
    mlx_fused_cases.hold(name, (3, 13, 6), trained=True)


@pytest.mark.parametrize(("name", "shape"), list(product(SOME, SHAPES[:4])))
def test_continue_from_a_given_state(name: str, shape: tuple[int, int, int], use: Use) -> None:
    use(4)
    given = mlx_fused_cases.given_state(shape[0])
    mlx_fused_cases.hold(name, shape, given, 2, trained=True)


def test_a_given_h_without_a_memory(use: Use) -> None:
    use(2)
    mlx_fused_cases.hold(SOME[0], SHAPES[1], {"h": mlx_fused_cases.given_state(2)["h"]}, 1)


def test_a_traced_step_runs_each_kernel_once() -> None:
    """What the gradient needs is handed over: asked for again, the forward kernel runs twice."""
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import kernel
    from fwt.backends.mlx.kernels.fused.loop import Schedule

    ran = []

    def run(direction: str, size: int, groups: int, inputs: Any, shapes: Any) -> Any:
        ran.append((direction, size, groups))
        return [mx.zeros(shape) + inputs[1][0] for shape in shapes]

    loop = kernel.time_loop(Schedule((0, 0, 0), (True,) * 3, False, 1, None, 3), run)

    def measure(z: Any) -> Any:
        weights, powers = mx.ones((3, 1, 1)), mx.ones((4,))
        given = {"z": z, "w": [mx.eye(5)], "weights": weights, "powers": powers}
        return mx.sum(loop(given)["last"])

    mx.enable_compile()
    try:
        step = mx.compile(mx.value_and_grad(measure))
        for _ in range(2):
            loss, gradient = step(mx.zeros((3, 2, 5)))
            assert (loss.shape, gradient.shape) == ((), (3, 2, 5))
    finally:
        mx.disable_compile()
    assert ran == [("forward", 5, 2), ("backward", 5, 2)]


def test_not_a_number_reaches_the_states(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(2)
    name, shape = "fast-none-final-boundary-S1-flat", (1, 4, 100)
    states, _ = mlx_fused_cases.run(name, "fused", shape)
    assert np.isfinite(states["outputs"]).all()
    noise = cases.noise

    def broken(seed: int, *shape: int) -> Any:
        found = noise(seed, *shape)
        if seed == 1:  # x
            found[0, 2, 0] = np.nan
        return found

    monkeypatch.setattr(cases, "noise", broken)
    states, _ = mlx_fused_cases.run(name, "fused", shape)
    assert np.isfinite(states["outputs"][0, :2]).all()
    assert np.isnan(states["outputs"][0, 2:]).all()


# --- the check of a device ----------------------------------------------------------------


def test_the_check_passes_kernels_that_hold(single: StandIn) -> None:
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    assert not check.held(7, single, mx.cpu)
    before = single.calls
    assert check.failure(7, single, mx.cpu) is None
    trials = len(check.FIRST) + 2 * len(check.EVERY)
    assert single.calls == before + 2 * trials
    assert check.held(7, single, mx.cpu)
    assert check.failure(7, single, mx.cpu) is None
    assert single.calls == before + 2 * trials, "asked once a process"


def test_rounding_stays_below_a_fifth_of_the_bound(
    single: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    monkeypatch.setattr(check, "TOLERANCE", check.TOLERANCE / 5)
    for trial in check.FIRST + check.EVERY:
        assert check._fault(trial, check.SIZE, single, mx.cpu) is None


def test_the_check_tries_every_variant_and_odd_lengths() -> None:
    need("mlx")
    from fwt.backends.mlx.kernels.fused import check, kernel

    trials = check.FIRST + check.EVERY
    assert {(t.norm, t.inner > 0) for t in trials} == set(product(("sum", "none"), (True, False)))
    assert {t.inner for t in trials} == {0, 1, 3}
    assert {key for t in trials for key in t.plan} == {"store", "wipe", "integrate"}
    assert {1, 7} <= {t.steps for t in trials}
    assert any(t.steps > kernel.WIDTH for t in trials), "more states than threads"
    assert any(t.chunk < t.steps for t in trials)
    assert {t.batch for t in trials} == {1, 2}
    assert any(t.given for t in trials)


def broken(direction: str, old: str, new: str) -> Callable[[str], str]:
    """A change of the one body that has `old`."""

    def edit(text: str) -> str:
        return text.replace(old, new) if old in text else text

    need("mlx")
    from fwt.backends.mlx.kernels.fused import kernel

    assert kernel.text(direction).count(old) == 1
    return edit


BROKEN = {
    "forward": ("weights[chunk - t + tau]", "weights[chunk - 1]", "outputs"),
    "backward": (
        "slope_weights[chunk - t + tau] += score * other;",
        "slope_weights[chunk - t + tau] += score;",
        "the gradient of core",
    ),
}


@pytest.mark.parametrize("direction", BROKEN)
def test_wrong_kernels_fail_the_check_and_auto_does_without(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, quantity = BROKEN[direction]
    wrong = StandIn(tmp_path, "float32", CHECKED, broken(direction, old, new))
    import mlx.core as mx

    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.kernels.fused import check
    from fwt.backends.mlx.ops import MlxOps

    with pytest.warns(check.KernelWarning, match="backend mlx: no fused core: its kernels do not"):
        reason = check.failure(7, wrong, mx.cpu)
    assert reason is not None
    assert re.search(f"do not hold the equations on this device .*: {quantity}", reason)
    assert not check.held(7, wrong, mx.cpu)
    assert check.failure(None, wrong, mx.cpu) == reason
    checked_by(wrong, monkeypatch)
    assert fused.missing(model_of(7).core, MlxOps(mx.float32), mx.Device(mx.gpu)) == reason
    assert choose("auto", reason, "mlx") == "auto"
    with pytest.raises(ConfigError, match="do not hold the equations on this device"):
        choose("fused", reason, "mlx")


def raising(error: Exception) -> Any:
    def run(*_: Any) -> Any:
        raise error

    return run


COMPILE = RuntimeError(
    "[metal::Device] Unable to build metal library from source\nprogram_source:40:7: error: no"
)


@pytest.mark.parametrize(
    "error", [COMPILE, ValueError("Thread group size (256) is greater"), TypeError("incompatible")]
)
def test_kernels_that_do_not_run_fail_the_check(error: Exception) -> None:
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    run = raising(error)
    with pytest.warns(check.KernelWarning):
        reason = check.failure(None, run, mx.cpu)
    assert reason is not None
    assert reason.startswith("its kernels do not run on this device (S=1 T=7 R=5 norm=sum): ")
    assert reason.endswith(str(error).replace("\n", " "))


def test_a_fault_of_another_kind_is_not_hidden() -> None:
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    with pytest.raises(ZeroDivisionError):
        check.failure(None, raising(ZeroDivisionError("ours")), mx.cpu)


def test_more_units_than_the_kernels_hold_are_refused(single: StandIn) -> None:
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    assert check.failure(513, single, mx.cpu) == "its kernels hold at most 512 units, and size=513"


# --- the choice ---------------------------------------------------------------------------


def checked_by(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's kernels are `run`, checked on the CPU."""
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check

    real = check.failure
    monkeypatch.setattr(check, "failure", lambda size, _, device: real(size, run, mx.cpu))


def model_of(size: int) -> cases.ModelSpec:
    return cases.core_only(cases.core_of(SOME[0], size), 2)


def test_a_gpu_has_the_fused_core_that_holds(
    single: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx

    from fwt.backends.mlx import kernels
    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.ops import MlxOps

    checked_by(single, monkeypatch)
    gpu, core = mx.Device(mx.gpu), model_of(7).core
    assert fused.missing(core, MlxOps(mx.float32), gpu) is None
    assert kernels.fused_on(gpu) == kernels.name_of(core, "fused", gpu, None)
    assert kernels.fused_on(gpu) in ("Metal", "CUDA")
    assert fused.missing(core, MlxOps(mx.bfloat16), gpu) == "there is none for dtype bfloat16"


def test_without_it_auto_goes_on_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx import kernels
    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.kernels.fused import check
    from fwt.backends.mlx.ops import MlxOps

    checked_by(raising(RuntimeError("no such device")), monkeypatch)
    gpu = mx.Device(mx.gpu)
    core, lstm = model_of(7).core, cases.core_only(cases.core_of("lstm-none", 7), 2).core
    with pytest.warns(check.KernelWarning):
        reason = fused.missing(core, MlxOps(mx.float32), gpu)
    assert reason is not None
    assert "no such device" in reason
    assert kernels.name_of(core, "attention", gpu, reason) == f"none: {reason}"
    assert kernels.name_of(lstm, "auto", gpu, "it has no memory") == "none"
    monkeypatch.setattr(type(backend), "devices", lambda self: ["gpu", "cpu"])
    assert backend.fused() == {"gpu": f"none: {reason}", "cpu": "custom_function"}
    monkeypatch.setattr(fused, "missing", lambda core, ops, device: reason)
    facts = backend.compile(model_of(7), device="cpu").describe(4, 8)
    assert facts["memory"] in ("matrix", "attention", "chunked")
    with pytest.raises(ConfigError) as caught:
        backend.compile(model_of(7), device="cpu", memory="fused")
    assert reason in str(caught.value)


def test_a_form_asked_for_by_name_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = need("mlx")
    from fwt.backends.mlx.kernels import fused

    monkeypatch.setattr(fused, "missing", raising(AssertionError("asked")))
    for form in ("matrix", "attention", "chunked"):
        backend.compile(model_of(3), device="cpu", memory=form)
    with pytest.raises(AssertionError, match="asked"):
        backend.compile(model_of(3), device="cpu")


def test_the_cpu_keeps_its_own_time_loop() -> None:
    backend = need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.kernels.fused import kernel, loop

    with mx.stream(mx.cpu):
        assert fused._time_loop(3) is loop.time_loop
    made = backend.compile(model_of(3), device="cpu")
    made.gradients(cases.noise(1, 2, 5, 2), np.array([0, 1]))
    assert made.describe(2, 5)["kernel"] == backend.fused()["cpu"] == "custom_function"
    assert kernel._built.cache_info().currsize == 0 or mx.is_available(mx.gpu)


def test_the_gpu_runs_what_was_held_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels import fused
    from fwt.backends.mlx.kernels.fused import check, kernel, loop

    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(check, "_HELD", {(3, kernel.on_gpu, mx.gpu)})
    assert fused._time_loop(4) is loop.time_loop
    chosen: Any = fused._time_loop(3)
    assert (chosen.func, chosen.keywords) == (kernel.time_loop, {"run": kernel.on_gpu})


def test_the_kernels_hold_on_the_gpu_of_this_machine() -> None:
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import check, kernel

    if not mx.is_available(mx.gpu):
        pytest.skip("no GPU of MLX here")
    assert check.failure(50, kernel.on_gpu, mx.gpu) is None
