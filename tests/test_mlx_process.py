"""What MLX is given of the process: the folder of its kernels, and the precision of products."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec

import pytest

from fwt import backends
from tests.cli_tools import python
from tests.conftest import need

COMPILED = """
import mlx.core as mx
mx.set_default_device(mx.cpu)
mx.compile(lambda x: mx.exp(x) * x + x)(mx.ones(3)).tolist()
"""
OURS = "from fwt import backends; backends.load('mlx')\n" + COMPILED
PLANT = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) static void run() { std::fclose(std::fopen("%s", "w")); }
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX compiles with g++ on Linux")


def kernels(folder):
    return sorted(folder.glob("mlx/*/cpu/lib*.so"))


def plant(folder, marker):
    """In place of each kernel there, a library that leaves a file when it is loaded."""
    source = folder / "plant.cpp"
    source.write_text(PLANT % marker)
    for kernel in kernels(folder):
        kernel.unlink()
        subprocess.run(["g++", "-shared", "-fPIC", source, "-o", kernel], check=True)


@linux
def test_a_library_that_others_planted_in_the_shared_folder_is_not_loaded(tmp_path):
    need("mlx")
    shared, cache, marker = tmp_path / "shared", tmp_path / "cache", tmp_path / "planted code ran"
    shared.mkdir()
    places = {"TMPDIR": str(shared), "XDG_CACHE_HOME": str(cache)}
    assert python(COMPILED, **places).code == 0
    assert kernels(shared)
    plant(shared, marker)
    python(COMPILED, **places)
    assert marker.exists()  # it is what MLX alone loads
    marker.unlink()

    done = python(OURS, **places)
    assert (done.code, done.err) == (0, "")
    assert not marker.exists()
    own = list((cache / "fwt").glob("kernels-*"))
    assert len(own) == 1
    assert own[0].stat().st_mode & 0o777 == 0o700
    assert len(kernels(own[0])) == 1


@pytest.fixture(name="place")
def _place(tmp_path, monkeypatch):
    """`fwt.backends.mlx.compiler`, whose cache and temporary folders are below `tmp_path`."""
    need("mlx")
    from fwt.backends.mlx import compiler as place

    monkeypatch.setattr(place, "cache_folder", lambda: tmp_path / "cache" / "kernels")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return place


def own(place, tmp_path):
    folder = place.private_folder.__wrapped__()
    kept = folder == tmp_path / "cache" / "kernels"
    assert kept or folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    return kept


@linux
def test_kernels_are_kept_where_no_other_user_can_put_any(place, tmp_path):
    assert own(place, tmp_path)
    assert own(place, tmp_path)  # and found again


@linux
@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777, 0o1777])
def test_a_folder_open_to_others_is_not_used(place, tmp_path, mode):
    (tmp_path / "cache" / "kernels").mkdir(parents=True)
    (tmp_path / "cache" / "kernels").chmod(mode)
    assert not own(place, tmp_path)


@linux
def test_a_folder_that_others_may_replace_is_not_used(place, tmp_path):
    assert own(place, tmp_path)
    (tmp_path / "cache").chmod(0o777)
    assert not own(place, tmp_path)


@linux
def test_a_link_is_not_followed(place, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(tmp_path / "elsewhere")
    assert not own(place, tmp_path)


@linux
def test_the_folder_of_another_user_is_not_used(place, tmp_path, monkeypatch):
    assert own(place, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert not own(place, tmp_path)


@linux
def test_a_cache_that_cannot_be_made_is_done_without(place, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert not own(place, tmp_path)


@linux
def test_pythons_temporary_folder_stays_what_it_was(tmp_path):
    need("mlx")
    code = "import tempfile\n" + OURS + "\nprint(tempfile.gettempdir())"
    done = python(code, TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.out == f"{tmp_path}\n"


def test_mlx_that_was_imported_before_is_used(tmp_path):
    need("mlx")
    code = "import mlx.core\nfrom fwt import backends\nprint(backends.load('mlx').name)"
    done = python(code, XDG_CACHE_HOME=str(tmp_path), MLX_ENABLE_TF32="1")
    gpu = "cpu" not in backends.load("mlx").devices()[0]
    assert (done.code, done.out) == (0, "mlx\n")
    assert ("TF32" in done.err) == gpu


@pytest.mark.parametrize(
    ("gpu", "switch", "precision", "warns"),
    [
        (True, "1", "highest", True),
        (True, None, "highest", True),
        (True, "0", "highest", False),
        (True, "1", "tf32", False),
        (False, "1", "highest", False),
    ],
)
def test_a_warning_comes_only_where_products_may_be_rounded(
    monkeypatch, gpu, switch, precision, warns
):
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx import PrecisionWarning

    monkeypatch.setattr(mx, "is_available", lambda device: gpu)
    monkeypatch.setenv("MLX_ENABLE_TF32", switch or "")
    if switch is None:
        monkeypatch.delenv("MLX_ENABLE_TF32")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backends.load("mlx", precision)
    assert [str(w.message).count("MLX_ENABLE_TF32=1") for w in caught] == [1] * warns
    assert all(w.category is PrecisionWarning for w in caught)


PRODUCTS = """
import mlx.core as mx
import numpy as np
print(backends.load("mlx").versions()["mlx_products"])
mx.set_default_device(mx.cpu)
drawn = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    a, b = (drawn.normal(size=size).astype(dtype) for size in ((40, 300), (300, 24)))
    x, y = (mx.array(array, dtype=getattr(mx, dtype)) for array in (a, b))
    print(np.array_equal(np.array(x @ y), a @ b), np.allclose(np.array(x @ y), a @ b, 1e-3, 1e-3))
"""


def products(*before):
    """What a process prints: whose products, and for either type whether NumPy's bits came out."""
    code = "\n".join([*before, PRODUCTS])
    return python(code, OMP_NUM_THREADS="1", PYTHONWARNINGS="error").out.split()


@linux
def test_products_on_cpus_are_numpys_bit_for_bit():
    need("mlx")
    if find_spec("fwt.backends.mlx._blas") is None:
        pytest.skip("blas.cpp was not compiled")
    assert products("from fwt import backends; backends.load('mlx')") == ["numpy", *["True"] * 4]


@linux
@pytest.mark.parametrize(
    "before",
    [
        "import mlx.core",
        "from fwt.fwcore import blas; blas.NAMES = ()",
        "from fwt.backends.mlx import blas; blas.LIBRARY = 'fwt.backends.mlx._none'",
    ],
)
def test_mlx_keeps_its_own_products_where_numpys_cannot_be_had(before):
    need("mlx")
    said = products(before, "from fwt import backends; backends.load('mlx')")
    assert (said[0], said[2], said[4]) == ("mlx", "True", "True")
