"""The bundled MNIST subset: balanced, distinct, pinned, and made again byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from fwt.fwcore.errors import DataError
from fwt.tasks import datasets
from fwt.tasks.datasets import images
from fwt.tasks.sources import SOURCES

TRAIN, TEST = 20, 6  # items in the made-up datasets


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache or the network."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets, "cache_folder", lambda: folder)
    monkeypatch.setenv("FWT_OFFLINE", "1")
    return folder


# --- the bundled subset ---------------------------------------------------------------------


def test_subset_holds_balanced_distinct_images() -> None:
    data = images("mnist-subset")
    assert data.train_images.shape == (5_000, 28, 28)
    assert data.test_images.shape == (1_000, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [500] * 10
    assert np.bincount(data.train_labels[-1_000:]).tolist() == [100] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    every = np.concatenate([data.train_images, data.test_images])
    assert len({image.tobytes() for image in every}) == 6_000


def test_subset_is_small_and_licensed() -> None:
    folder = datasets.BUNDLED / "mnist-subset"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{file.name}.gz" for file in SOURCES["mnist-subset"].files), "LICENSE.md"]
    )
    assert max(path.stat().st_size for path in folder.iterdir()) < 2 * 2**20
    assert "CC BY-SA 3.0" in (folder / "LICENSE.md").read_text(encoding="utf-8")


def test_subset_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = datasets.BUNDLED / "mnist-subset"
    folder = tmp_path / "mnist-subset"
    folder.mkdir()
    for file in SOURCES["mnist-subset"].files:
        data = bytearray(gzip.decompress((original / f"{file.name}.gz").read_bytes()))
        data[-1] ^= file.dims == 3  # one pixel of each image file
        (folder / file.name).write_bytes(data)
    monkeypatch.setattr(datasets, "BUNDLED", tmp_path)
    with pytest.raises(DataError, match="expected md5 11408a98df4b262233113a946cf9fb2f"):
        images("mnist-subset")


def subset_tool() -> types.ModuleType:
    path = Path(__file__).parents[1] / "tools" / "make_mnist_subset.py"
    spec = importlib.util.spec_from_file_location("make_mnist_subset", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_subset_tool_chooses_in_order_and_in_balance() -> None:
    labels = np.random.default_rng(3).integers(0, 10, 3_000)
    tool = subset_tool()
    chosen = tool.choose(labels, 20, "train")
    assert np.bincount(labels[chosen]).tolist() == [20] * 10
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, tool.choose(labels, 20, "train"))
    assert not np.array_equal(chosen, tool.choose(labels, 20, "val"))


def test_subset_tool_writes_the_same_bytes(tmp_path: Path) -> None:
    data = images("mnist-subset")
    arrays = [data.train_images, data.train_labels, data.test_images, data.test_labels]
    subset_tool().write(arrays, tmp_path)
    for file in SOURCES["mnist-subset"].files:
        plain = gzip.decompress((tmp_path / f"{file.name}.gz").read_bytes())
        assert hashlib.md5(plain, usedforsecurity=False).hexdigest() == file.md5
        assert (tmp_path / f"{file.name}.gz").read_bytes()[4:8] == bytes(4)  # no time stamp
