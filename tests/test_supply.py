"""What the product never does: unpickle, import what it does not need, reach for the network."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from tests.cli_tools import ROOT
from tests.sources import FILES

# modules that make objects, and so run code, out of bytes
UNPICKLERS = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal",
}  # fmt: skip
OUTSIDE = "192.0.2.1"  # documentation's own, nobody's machine (RFC 5737)


def codes(code: CodeType) -> Iterator[CodeType]:
    """A compiled file and all functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def names(path: Path) -> set[str]:
    """Every module, attribute and keyword that a file's bytecode names."""
    found: set[str] = set()
    for code in codes(compile(path.read_bytes(), str(path), "exec")):
        found.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, tuple):  # the keywords of a call, what `from ... import` takes
                found.update(part for part in constant if isinstance(part, str))
    return {part for name in found for part in name.split(".")} | found


def test_no_bytecode_names_a_pickle() -> None:
    files = FILES
    assert len(files) > 100
    assert {str(path): names(path) & UNPICKLERS for path in files if names(path) & UNPICKLERS} == {}


def test_the_bytecode_is_read_whole(tmp_path: Path) -> None:
    """Guards the test above."""
    hidden = tmp_path / "hidden.py"
    hidden.write_text(
        "def outer():\n    class Inner:\n        def run(self):\n"
        "            from cloudpickle import loads\n            import os.pickle as p\n"
        "            return loads(p, allow_pickle=True)\n"
    )
    assert {"cloudpickle", "pickle", "allow_pickle"} <= names(hidden)


def test_frameworks_files_are_loaded_as_weights_alone() -> None:
    for path in FILES:
        text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        calls = text.count("torch.load(")
        assert calls == text.count("weights_only=True"), place
        assert not calls or place == "backends/torch/foreign.py"
        assert "torch.save(" not in text, place
        assert text.count("allow_pickle=True") == 0, place


def test_no_test_reaches_beyond_this_machine() -> None:
    with pytest.raises(RuntimeError, match=f"host='{OUTSIDE}'"):
        socket.create_connection((OUTSIDE, 80), timeout=1)
    with pytest.raises(RuntimeError, match=r"host='example\.invalid'"):
        socket.getaddrinfo("example.invalid", 80)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_nor_does_a_process_that_it_starts() -> None:
    code = f"import socket; socket.create_connection(({OUTSIDE!r}, 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"host={OUTSIDE!r}" in done.stderr
