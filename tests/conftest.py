"""Fixtures: one per backend of the registry, and a switch that lets MLX run without compiling."""

from __future__ import annotations

import gc
import os
import runpy
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwt import backends
from fwt.backends.contract import Backend
from fwt.fwcore.errors import BackendError
from tests.browser import _browser as _browser
from tests.cases import Engine, dtypes_of
from tests.cli_tools import TINY, good

REQUIRED = "FWT_REQUIRE_BACKENDS"  # names, separated by commas, that must not be skipped


def pytest_configure(config: pytest.Config) -> None:
    """For this process and every process that a test starts; both are read at import."""
    os.environ["FWT_OFFLINE"] = "1"
    offline = str(Path(__file__).parent / "offline")
    runpy.run_path(f"{offline}/sitecustomize.py")
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([offline, given] if given else [offline])
    # models this small lose a factor of 30 to threads that wait for each other on busy cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # tests that run below `nohup` hand on that SIGHUP is ignored, and runs are not to be stopped
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The garbage collector never looks at what all tests are made of: it stays to the end.

    These are so many objects that each look took as long as a test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def required() -> set[str]:
    """The names in the environment variable; one that is no backend would demand nothing."""
    names = {name.strip() for name in os.environ.get(REQUIRED, "").split(",")} - {""}
    unknown = names - backends.BACKENDS.keys()
    if unknown:
        raise ValueError(f"{REQUIRED}: no such backend: {', '.join(sorted(unknown))}")
    return names


def need(name: str) -> Backend:
    """A backend, or the test is skipped with the reason, or failed where it is required."""
    demanded = name in required()
    try:
        return backends.load(name)
    except BackendError as error:
        if demanded:
            pytest.fail(f"{REQUIRED} names {name}, but: {error}")
        pytest.skip(str(error))


def light() -> str:
    """The backend whose processes begin fastest, for tests of something that is in no backend.

    To import PyTorch takes seconds; with MLX_DISABLE_COMPILE=1 MLX begins in a fraction of one.
    """
    return need("mlx" if backends.installed("mlx") else "torch").name


def engine(name: str, dtype: str) -> Engine:
    return Engine(need(name), dtype)


def engines(names: Any, dtypes: tuple[str, ...] = ("float64", "float32")) -> list[Any]:
    """(backend, dtype) of every number type that a backend has."""
    pairs = [(name, dtype) for name in names for dtype in dtypes if dtype in dtypes_of(name)]
    return [pytest.param(pair, id="-".join(pair)) for pair in pairs]


@pytest.fixture(params=list(backends.BACKENDS), name="backend")
def _backend(request: pytest.FixtureRequest) -> Backend:
    return need(request.param)


@pytest.fixture(params=list(backends.TRAINING_ORDER), name="training_backend")
def _training_backend(request: pytest.FixtureRequest) -> Backend:
    return need(request.param)


@pytest.fixture(params=engines(backends.BACKENDS), name="engine")
def _engine(request: pytest.FixtureRequest) -> Engine:
    """Every backend in every number type it has."""
    return engine(*request.param)


@pytest.fixture(params=engines(backends.TRAINING_ORDER), name="training_engine")
def _training_engine(request: pytest.FixtureRequest) -> Engine:
    """Every backend that trains, in every number type it has."""
    return engine(*request.param)


@pytest.fixture(params=engines(backends.TRAINING_ORDER, ("float64",)), name="exact_engine")
def _exact_engine(request: pytest.FixtureRequest) -> Engine:
    """Every backend that trains, in float64."""
    return engine(*request.param)


@pytest.fixture(name="both")
def _both() -> dict[str, Engine]:
    """All backends that train, in float32, by name."""
    return {name: engine(name, "float32") for name in backends.TRAINING_ORDER}


@pytest.fixture(name="eager")
def _eager() -> Iterator[None]:
    """MLX runs what it would compile: the same operations, without seconds of g++ a graph."""
    if not backends.installed("mlx"):
        yield
        return
    need("mlx")  # decides on TF32 before MLX is imported
    import mlx.core as mx

    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    """A run that is done: 6 updates, checkpoints of steps 0 and 6."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    good("train", *TINY, "--backend", "torch", "--out", run)
    return run


@pytest.fixture(scope="module", name="stopped")
def _stopped(tmp_path_factory):
    """A run that stopped after 2 of 6 updates."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    good("train", *TINY, "--backend", "torch", "--stop-after", 2, "--out", run)
    return run


@pytest.fixture(name="run")
def _run(stopped, tmp_path):
    """A copy of the stopped run, to be broken."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture(name="point")
def _point(finished, tmp_path):
    """A copy of a checkpoint, to be broken."""
    return Path(shutil.copytree(finished / "checkpoints" / "step-00000006", tmp_path / "point"))
