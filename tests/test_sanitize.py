"""The C++ libraries under sanitizers: drawn calls find nothing, but what is planted."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest


@pytest.mark.skipif(
    platform.system() != "Linux" or shutil.which("g++") is None, reason="needs GCC on Linux"
)
def test_drawn_calls_find_nothing_but_what_is_planted(tmp_path: Path) -> None:
    from tools.sanitize.__main__ import build, fault

    def beyond(text: str) -> str:
        assert text.count("z.real[k], b = z.imag[k]") == 1
        return text.replace("z.real[k], b = z.imag[k]", "z.real[k], b = z.imag[k + 9 * H * rows]")

    (tmp_path / "planted").mkdir()
    library, _ = build("alstm", tmp_path)
    try:
        assert fault("alstm", library, seed=1, calls=20) is None
    except OSError as error:
        pytest.skip(str(error))
    library, _ = build("alstm", tmp_path / "planted", beyond)
    report = fault("alstm", library, seed=1, calls=20)
    assert report is not None
    assert "AddressSanitizer: heap-buffer-overflow" in report
    assert "READ of size" in report
    assert "alstm.cpp" in report
