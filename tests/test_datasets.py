"""Datasets: every file is read, proved and refused rightly, without network or full MNIST."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import hashlib
import importlib
import importlib.util
import os
import socket
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from fwt.fwcore.errors import ConfigError, DataError
from fwt.fwcore.ops import NumpyArray
from fwt.tasks import datasets, mnist_glimpse
from fwt.tasks.datasets import SubsetWarning, images
from fwt.tasks.sources import NAMES, SOURCES, Source

TRAIN, TEST = 20, 6  # items in the made-up datasets


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache or the network."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets, "cache_folder", lambda: folder)
    monkeypatch.setenv("FWT_OFFLINE", "1")
    return folder


def idx(array: NumpyArray) -> bytes:
    """An array as an IDX file, written from the description of the format."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def contents(source: Source, seed: int = 0) -> list[bytes]:
    """Four made-up files of a dataset."""
    rng, last = np.random.default_rng(seed), len(source.classes)
    out = []
    for count in (TRAIN, TEST):
        out.append(idx(rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)))
        labels = source.first_label + np.arange(count) * 7 % last
        out.append(idx(labels.astype(np.uint8)))
    return out


def put(folder: Path, source: Source, files: list[bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in zip(source.files, files, strict=True):
        if packed:
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / file.name).write_bytes(data)
    return folder


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


UNKNOWN = [None] * 4


def pin(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    md5: Sequence[str | None] = UNKNOWN,
    gz_md5: Sequence[str | None] = UNKNOWN,
) -> Source:
    """Put a dataset of the made-up sizes and these checksums in the registry."""
    counts = (TRAIN, TRAIN, TEST, TEST)
    files = tuple(
        dataclasses.replace(file, count=counts[i], md5=md5[i], gz_md5=gz_md5[i])
        for i, file in enumerate(SOURCES[name].files)
    )
    source = dataclasses.replace(SOURCES[name], files=files, validation=5)
    monkeypatch.setitem(SOURCES, name, source)
    return source


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> Source:
    """A made-up full MNIST with pinned checksums of the unpacked bytes."""
    return pin(monkeypatch, "mnist", md5=[md5(data) for data in contents(SOURCES["mnist"])])


def refusal(call: Callable[[], object]) -> str:
    """The one line of the DataError that `call` raises."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the registry ---------------------------------------------------------------------------


def torchvision_md5s() -> dict[str, list[str]]:
    """The checksums in torchvision's source, read as text: importing it costs seconds."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        pytest.skip("torchvision is not installed")
    path = Path(found.origin).parent / "datasets" / "mnist.py"
    table = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for line in getattr(node, "body", []):
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "resources":
                assert isinstance(node, ast.ClassDef)
                table[node.name] = [md5 for _, md5 in ast.literal_eval(line.value)]
    return table


def test_checksums_are_torchvisions() -> None:
    theirs = torchvision_md5s()
    for name in ("mnist", "fashion-mnist", "kmnist"):
        source = SOURCES[name]
        assert [file.gz_md5 for file in source.files] == theirs[source.torchvision]


def test_registry() -> None:
    assert list(NAMES) == [
        "auto", "mnist", "mnist-subset", "fashion-mnist", "kmnist",
        "emnist-digits", "emnist-letters", "emnist-balanced",
    ]  # fmt: skip
    assert {name: len(source.classes) for name, source in SOURCES.items()} == {
        "mnist": 10,
        "mnist-subset": 10,
        "fashion-mnist": 10,
        "kmnist": 10,
        "emnist-digits": 10,
        "emnist-letters": 26,
        "emnist-balanced": 47,
    }
    assert SOURCES["emnist-letters"].files[2].name == "emnist-letters-test-images-idx3-ubyte"


def test_unknown_dataset() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'mnits'.*did you mean 'mnist'"):
        images("mnits")


# --- finding and reading --------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_layouts(mnist: Source, tmp_path: Path, below: str, packed: bool) -> None:
    root = tmp_path / "given"
    files = contents(mnist)
    put(root / below, mnist, files, packed)
    data = images("mnist", root)
    assert data.source is mnist
    pixels = np.frombuffer(files[0][16:], np.uint8).reshape(TRAIN, 28, 28)
    assert np.array_equal(data.train_images, pixels)
    assert data.train_labels.dtype == np.int64
    assert data.train_labels[:4].tolist() == [0, 7, 4, 1]
    assert data.test_images.tobytes() == files[2][16:]
    assert data.test_labels.tolist() == [0, 7, 4, 1, 8, 5]


def test_a_mix_of_packed_and_plain_is_one_dataset(mnist: Source, tmp_path: Path) -> None:
    put(tmp_path, mnist, contents(mnist))
    packed = tmp_path / f"{mnist.files[1].name}.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert len(images("mnist", tmp_path).train_labels) == TRAIN


def test_emnist_is_turned_upright_and_counted_from_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pin(monkeypatch, "emnist-letters")
    files = contents(source)
    put(tmp_path / "EMNIST" / "raw", source, files)
    data = images("emnist-letters", tmp_path)
    stored = np.frombuffer(files[0][16:], np.uint8).reshape(TRAIN, 28, 28)
    assert data.train_images[3, 20, 5] == stored[3, 5, 20]
    assert np.array_equal(data.train_images, stored.transpose(0, 2, 1))
    assert data.train_labels[:5].tolist() == [0, 7, 14, 21, 2]


Damage = Callable[[bytes], bytes]


def repack(change: Damage) -> Damage:
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (0, lambda b: b[:-100], ["whole gzip file", "truncated or damaged", "size="]),
        (0, lambda b: b[:200] + b"\0\0\0\0" + b[204:], ["whole gzip file", "damaged"]),
        (1, lambda b: b"", ["IDX header of 8 bytes", "size=0"]),
        (1, lambda b: b"<html>not found</html>", ["magic number 0x00000801", "magic=0x3c68746d"]),
        (0, repack(lambda b: b[:10]), ["IDX header of 16 bytes", "size=10", "truncated"]),
        (0, repack(lambda b: b[:-1]), ["15680 bytes after the header", "got 15679"]),
        (0, repack(lambda b: b + b"\0"), ["15680 bytes after the header", "got 15681"]),
        (0, repack(lambda b: b[:3] + b"\1" + b[4:]), ["0x00000803", "magic=0x00000801"]),
        (2, repack(lambda b: idx(np.zeros((6, 27, 28), np.uint8))), ["28x28", "(6, 27, 28)"]),
        (2, repack(lambda b: idx(np.zeros((7, 28, 28), np.uint8))), ["expected 6 item", "count=7"]),
        (0, repack(lambda b: b[:-1] + bytes([b[-1] ^ 1])), ["expected md5", "md5=", "'mnist'"]),
    ],
)  # fmt: skip
def test_damaged_files(
    mnist: Source, tmp_path: Path, file: int, damage: Damage, words: list[str]
) -> None:
    put(tmp_path, mnist, contents(mnist))
    path = tmp_path / f"{mnist.files[file].name}.gz"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(lambda: images("mnist", tmp_path))
    assert [word for word in [str(path), *words] if word not in message] == []


def test_wrong_md5_names_both(mnist: Source, tmp_path: Path) -> None:
    others = contents(mnist, seed=1)
    put(tmp_path, mnist, others, packed=False)
    message = refusal(lambda: images("mnist", tmp_path))
    assert f"expected md5 {mnist.files[0].md5}" in message
    assert f"md5={md5(others[0])}" in message


def test_what_is_known_packed_is_known_unpacked() -> None:
    files = [file for source in SOURCES.values() for file in source.files]
    assert [file.name for file in files if file.gz_md5 and not file.md5] == []
    known = [file.md5 for file in files if file.md5]
    assert len(known) == len(set(known)) == 16


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_true_files_in_any_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = contents(SOURCES[name])
    packed = [gzip.compress(data, mtime=0) for data in files]
    known = {"md5": [md5(data) for data in files], "gz_md5": [md5(data) for data in packed]}
    source = pin(monkeypatch, name, **known)
    for number, level in enumerate((0, 1, 9)):  # none of them is how the authors packed it
        folder = put(tmp_path / str(number), source, files)
        for file, data in zip(source.files, files, strict=True):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(data, level, mtime=1))
        assert images(name, folder).train_images.tobytes() == files[0][16:]
    plain = put(tmp_path / "plain", source, files, packed=False)
    assert images(name, plain).source is source
    others = put(tmp_path / "others", source, contents(source, seed=1))
    message = refusal(lambda: images(name, others))
    assert f"expected md5 {source.files[0].md5} of dataset {name!r} unpacked, got md5=" in message
    assert "fetch it again, or for images of your own add a task" in message


def test_the_authors_packing_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = contents(SOURCES["kmnist"])
    packed = [md5(gzip.compress(data, mtime=0)) for data in files]
    source = pin(monkeypatch, "kmnist", md5=["0" * 32] * 4, gz_md5=packed)
    put(tmp_path, source, files)
    assert images("kmnist", tmp_path).train_images.tobytes() == files[0][16:]


@pytest.mark.parametrize("asked", ["fashion-mnist", "emnist-digits"])
def test_another_datasets_files(
    mnist: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    source = pin(monkeypatch, asked)
    put(tmp_path, source, contents(mnist), packed=False)
    message = refusal(lambda: images(asked, tmp_path))
    assert f"of dataset {asked!r}, got a file of dataset 'mnist' (md5=" in message
    assert "name that dataset, or another folder" in message


def test_labels_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pin(monkeypatch, "emnist-letters")
    files = contents(source)
    files[3] = idx(np.arange(TEST, dtype=np.uint8))  # a 0, which is no letter
    put(tmp_path, source, files)
    message = refusal(lambda: images("emnist-letters", tmp_path))
    assert "expected labels 1..26 of dataset 'emnist-letters', got 0..5" in message


def test_labels_must_match_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = contents(SOURCES["emnist-digits"])  # whose counts are not pinned
    files[1] = idx(np.zeros(TRAIN - 1, np.uint8))
    put(tmp_path, SOURCES["emnist-digits"], files)
    message = refusal(lambda: images("emnist-digits", tmp_path))
    assert f"expected {TRAIN} labels" in message
    assert f"got {TRAIN - 1}" in message


def test_missing_files_are_all_named(mnist: Source, tmp_path: Path) -> None:
    put(tmp_path / "MNIST" / "raw", mnist, contents(mnist))
    for file in mnist.files[1:3]:
        (tmp_path / "MNIST" / "raw" / f"{file.name}.gz").unlink()
    message = refusal(lambda: images("mnist", tmp_path))
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "train-labels-idx1-ubyte, t10k-images-idx3-ubyte (" in message
    assert "train-images" not in message
    assert "--data-dir" in message


def test_a_half_download_is_not_a_file(mnist: Source, tmp_path: Path) -> None:
    put(tmp_path, mnist, contents(mnist))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.rename(path.with_suffix(".gz.part"))
    assert "expected train-images-idx3-ubyte (" in refusal(lambda: images("mnist", tmp_path))


def test_folders_that_cannot_be_read(
    mnist: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, words in (("file", "Not a directory"), ("none", "No such file or directory")):
        message = refusal(lambda name=name: images("mnist", tmp_path / name))  # type: ignore[misc]
        assert f"{tmp_path / name}: expected a folder that can be read, got '{words}'" in message

    def listdir(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", listdir)  # the superuser may read every folder
    assert "got 'Permission denied'" in refusal(lambda: images("mnist", tmp_path))


def test_a_folder_in_place_of_a_file(mnist: Source, tmp_path: Path) -> None:
    put(tmp_path, mnist, contents(mnist), packed=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    message = refusal(lambda: images("mnist", tmp_path))
    assert f"{path}: expected a file that can be read, got 'Is a directory'" in message


def test_a_given_folder_is_never_downloaded_into(
    mnist: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = FakeTorchvision(monkeypatch, mnist)
    given = tmp_path / "given"
    given.mkdir()
    refusal(lambda: images("mnist", given))
    assert torchvision.calls == 0
    assert list(given.iterdir()) == []


# --- auto -----------------------------------------------------------------------------------


def test_auto_falls_back_with_a_warning() -> None:
    with pytest.warns(SubsetWarning, match=r"using the bundled mnist-subset.*FWT_OFFLINE=1"):
        data = images("auto")
    assert data.source.name == "mnist-subset"


@pytest.mark.parametrize("place", ["given", "cache"])
def test_auto_is_the_full_set_where_it_is(mnist: Source, tmp_path: Path, place: str) -> None:
    root = tmp_path / place
    put(root / "MNIST" / "raw", mnist, contents(mnist))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = images("auto", root if place == "given" else None)
    assert data.source is mnist


def test_auto_does_not_fall_back_from_a_given_folder(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "train-images-idx3-ubyte" in refusal(lambda: images("auto", tmp_path))


def test_the_task_names_what_auto_became(mnist: Source, tmp_path: Path) -> None:
    with pytest.warns(SubsetWarning):
        assert mnist_glimpse.load(mnist_glimpse.Spec()).spec.dataset == "mnist-subset"
    put(tmp_path, mnist, contents(mnist))
    task = mnist_glimpse.load(mnist_glimpse.Spec(), tmp_path)
    assert task.spec == mnist_glimpse.Spec(dataset="mnist")
    assert len(task.split("val")) == mnist.validation


# --- the cache and the download -------------------------------------------------------------


class FakeTorchvision:
    """Stands in for `torchvision.datasets`: writes files where torchvision would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
        self.source = source
        self.files = contents(source)
        self.extra: tuple[str, ...] = ()  # names of files that torchvision leaves behind
        self.fault: BaseException | None = None  # raised after two files
        self.calls = 0
        self.options: dict[str, Any] = {}
        self.timeout: float | None = None
        module = types.ModuleType("torchvision.datasets")
        setattr(module, source.torchvision, self.download)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
        monkeypatch.delenv("FWT_OFFLINE")

    def download(self, root: str, **options: Any) -> None:
        self.calls += 1
        self.options = options
        self.timeout = socket.getdefaulttimeout()
        print("100%|##########|")
        raw = put(Path(root) / self.source.folder, self.source, self.files)
        for name in self.extra:
            (raw / name).write_bytes(b"")
        if self.fault is not None:
            for file in self.source.files[2:]:
                (raw / f"{file.name}.gz").unlink()
            raise self.fault


@pytest.fixture
def torchvision(mnist: Source, monkeypatch: pytest.MonkeyPatch) -> FakeTorchvision:
    return FakeTorchvision(monkeypatch, mnist)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_download_once(
    torchvision: FakeTorchvision, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = images("mnist"), images("mnist")
    assert torchvision.calls == 1
    assert torchvision.options == {"train": True, "download": True}
    assert first.train_images.tobytes() == second.train_images.tobytes()
    assert first.train_images.tobytes() == torchvision.files[0][16:]
    assert visible(cache) == ["MNIST"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "100%" in captured.err
    assert torchvision.timeout == datasets.STALLED_S
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("Error downloading\nTried a mirror, got:\n<urlopen error>"),
        TimeoutError("timed out"),
        EOFError("Compressed file ended"),
    ],
)
def test_failed_download_leaves_nothing(
    torchvision: FakeTorchvision, cache: Path, fault: Exception
) -> None:
    torchvision.fault = fault
    message = refusal(lambda: images("mnist"))
    wanted = ["download failed", type(fault).__name__, "--data-dir", "mnist-subset"]
    assert [word for word in wanted if word not in message] == []
    assert visible(cache) == []
    assert socket.getdefaulttimeout() is None
    torchvision.fault = None
    assert images("mnist").source.name == "mnist"


def test_interrupted_download_leaves_nothing(torchvision: FakeTorchvision, cache: Path) -> None:
    torchvision.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        images("mnist")
    assert visible(cache) == []


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_downloaded_is_checked(
    torchvision: FakeTorchvision, cache: Path, whole: bool
) -> None:
    if whole:
        torchvision.files = contents(torchvision.source, seed=5)
        wanted = "expected md5"
    else:
        torchvision.files[0] = torchvision.files[0][:-1]
        wanted = "truncated or damaged"
    assert wanted in refusal(lambda: images("mnist"))
    assert visible(cache) == []


def test_half_a_cache_is_replaced(torchvision: FakeTorchvision, cache: Path) -> None:
    raw = put(cache / "MNIST" / "raw", torchvision.source, torchvision.files)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    killed = cache / ".partial-killed"
    killed.mkdir()
    assert images("mnist").test_labels.tolist() == [0, 7, 4, 1, 8, 5]
    assert torchvision.calls == 1
    assert visible(cache) == ["MNIST"]


def test_damaged_cache_is_an_error(torchvision: FakeTorchvision, cache: Path) -> None:
    files = [torchvision.files[0][:-1] + b"\0", *torchvision.files[1:]]
    put(cache / "MNIST" / "raw", torchvision.source, files)
    assert "delete it and fetch it again" in refusal(lambda: images("mnist"))
    assert torchvision.calls == 0


def test_emnist_keeps_what_is_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pin(monkeypatch, "emnist-letters")
    torchvision = FakeTorchvision(monkeypatch, source)
    other = SOURCES["emnist-digits"].files[0].name
    torchvision.extra = ("gzip.zip", "emnist-byclass-train-images-idx3-ubyte", other)
    images("emnist-letters")
    assert torchvision.options["split"] == "letters"
    kept = [f"{file.name}.gz" for file in source.files]
    assert visible(cache / "EMNIST" / "raw") == sorted([other, *kept])


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        ImportError("No module named 'torchvision'"),
        AttributeError("partially initialized module"),
    ],
)
def test_torchvision_that_does_not_import(
    torchvision: FakeTorchvision, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def import_module(name: str) -> types.ModuleType:
        assert name == "torchvision.datasets"
        raise fault

    monkeypatch.setattr(importlib, "import_module", import_module)
    message = refusal(lambda: images("mnist"))
    assert f"did not import ({type(fault).__name__}: {fault})" in message
    assert "--data-dir" in message
    assert "mnist-subset" in message


def test_offline_never_downloads(
    torchvision: FakeTorchvision, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FWT_OFFLINE", "1")
    message = refusal(lambda: images("mnist"))
    assert f"not in {cache} and FWT_OFFLINE=1 forbids downloading" in message
    assert torchvision.calls == 0
    assert not cache.exists()
    monkeypatch.setenv("FWT_OFFLINE", "0")
    images("mnist")
    assert torchvision.calls == 1


def test_another_process_downloads(
    torchvision: FakeTorchvision, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "LOCK_WAIT_S", 0.05)
    cache.mkdir()
    with filelock.FileLock(cache / ".lock"):
        message = refusal(lambda: images("mnist"))
    assert "another process has held" in message
    assert torchvision.calls == 0


def test_cache_that_cannot_be_written(torchvision: FakeTorchvision, cache: Path) -> None:
    cache.write_bytes(b"")  # a file where the folder should be
    message = refusal(lambda: images("mnist"))
    assert f"expected to write into {cache}, got FileExistsError" in message
    assert "--data-dir" in message


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    folder = datasets.cache_folder()
    assert folder.name == "datasets"
    assert "fwt" in folder.parts
