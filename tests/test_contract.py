"""The contract: every backend has every method, with the same signature, in the same files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from fwt import backends
from fwt.backends import contract
from fwt.backends.contract import Backend
from fwt.fwcore.errors import BackendError, ConfigError
from fwt.fwcore.ops import Ops
from fwt.fwcore.training.lockstep import Trainable
from tests import cases
from tests.conftest import need, required

CORE_FILES = {"__init__.py", "ops.py", "module.py", "compiled.py", "backend.py"}


def methods(protocol: type) -> dict[str, Any]:
    """The functions of a protocol and of those it inherits from."""
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        if base.__module__.startswith("fwt."):
            found |= {n: f for n, f in vars(base).items() if inspect.isfunction(f)}
    return {n: f for n, f in found.items() if not n.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of the parameters."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def parts(backend: Backend) -> list[tuple[type, Any]]:
    made: Any = backend.compile(cases.core_only({"kind": "rnn", "size": 2}, 2))
    return [
        (Ops, type(made.module.ops)),
        (contract.Backend, type(backend)),
        (contract.Compiled, type(made)),
    ]


def test_the_protocols_are_read_whole() -> None:
    """Guards the test below: a protocol read as empty would be met by anything."""
    assert len(methods(Ops)) >= 16
    wanted = {"versions", "devices", "fused", "memory_bytes", "ranks", "compile"}
    assert set(methods(contract.Backend)) == wanted
    assert set(methods(Trainable)) < set(methods(contract.Compiled))
    assert {"forward", "states", "gradients", "describe"} < set(methods(contract.Compiled))


def test_every_method_is_there_with_its_signature(backend: Backend) -> None:
    for protocol, made in parts(backend):
        for name, wanted in methods(protocol).items():
            got = getattr(made, name, None)
            assert got is not None, f"{made.__name__}.{name} is missing"
            assert shape(got) == shape(wanted), f"{made.__name__}.{name}"


def test_no_operation_stands_beside_the_contract(backend: Backend) -> None:
    """An operation of one backend only is one that no cell may use."""
    _, made = parts(backend)[0]
    own = {n for n, f in vars(made).items() if inspect.isfunction(f) and not n.startswith("_")}
    assert own == set(methods(Ops))


def test_the_attributes_of_the_contract_are_there(backend: Backend) -> None:
    spec = cases.core_only({"kind": "rnn", "size": 2}, 2)
    made = backend.compile(spec)
    assert made.spec == spec
    assert made.module is not None
    assert backends.BACKENDS.keys() >= {backend.name}
    assert made.describe(1, 1)["backend"] == backend.name


def test_the_folders_have_the_same_core_files() -> None:
    root = Path(backends.__file__).parent
    for name, (module, _, _) in backends.BACKENDS.items():
        folder = root / name
        assert module == f"fwt.backends.{name}"
        found = {path.name for path in folder.glob("*.py")}
        assert found >= CORE_FILES, f"backends/{name} lacks {CORE_FILES - found}"
    folders = {path.name for path in root.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(backends.BACKENDS), "a folder without a line in the registry"


def test_a_backend_that_trains_is_in_the_registry() -> None:
    assert set(backends.TRAINING_ORDER) <= set(backends.BACKENDS)


def test_an_unknown_device_or_number_type_is_refused_and_named(backend: Backend) -> None:
    spec = cases.core_only({"kind": "rnn", "size": 2}, 2)
    with pytest.raises(BackendError, match="no device 'abacus'"):
        backend.compile(spec, device="abacus")
    with pytest.raises(BackendError, match="dtype='float8'"):
        backend.compile(spec, dtype="float8")


def test_an_unknown_backend_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown name 'torhc' \(did you mean 'torch'\?"):
        backends.load("torhc")


# --- the fixture that skips or fails ------------------------------------------------------


@pytest.fixture(name="absent")
def _absent(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend of the registry whose package is not on this machine."""
    name = next(iter(backends.BACKENDS))
    entry = ("fwt.backends.none", "no_such_package_of_ours", "pip install it")
    monkeypatch.setitem(backends.BACKENDS, name, entry)
    return name


def test_a_missing_backend_skips_with_its_reason(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for names in ("", ",".join(set(backends.BACKENDS) - {absent})):
        monkeypatch.setenv("FWT_REQUIRE_BACKENDS", names)
        with pytest.raises(pytest.skip.Exception, match="is not installed; pip install it"):
            need(absent)


def test_a_missing_backend_that_is_required_fails(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FWT_REQUIRE_BACKENDS", f" mlx, {absent} ")
    with pytest.raises(pytest.fail.Exception, match=f"names {absent}, but: .*not installed"):
        need(absent)


def test_a_backend_that_is_there_neither_skips_nor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWT_REQUIRE_BACKENDS", "numpy")
    assert need("numpy").name == "numpy"


def test_a_required_name_that_is_no_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWT_REQUIRE_BACKENDS", "torch,mxl")
    with pytest.raises(ValueError, match="no such backend: mxl"):
        required()
