"""Damaged and hostile files: what was once wrong, by hand, and some cases of every reader."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwt import backends
from fwt.cli import failure
from fwt.fwcore.errors import CheckpointError, ConfigError, FwtError
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, files, foreign
from fwt.fwcore.storage.runs import RunFolder, find_checkpoint
from fwt.reproduce import summary
from fwt.settings import read_config
from fwt.sweep import plan
from fwt.tasks import datasets
from tests.cli_tools import clean_environment, python
from tests.conftest import need
from tests.fuzz import cases, judge, samples
from tests.fuzz.formats import CANARY, PICKLES, PICTURE, npy_of
from tests.fuzz.guard import Broken
from tests.fuzz.judge import Bench
from tests.fuzz.readers import READERS, Reader, usable
from tests.fuzz.tree import put
from tests.fuzz.verdict import Verdict

OF_TORCH = ("pt", "command")  # readers that need it


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    clean_environment(monkeypatch)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="module", name="bench")
def _bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(name="run")
def _run(tmp_path):
    put(tmp_path / "run", samples.run())
    return tmp_path / "run"


@pytest.fixture(name="point")
def _point(tmp_path):
    put(tmp_path / "point", samples.layout("fwt", "fast-weights"))
    return tmp_path / "point"


# --- generated cases -----------------------------------------------------------------------


@pytest.fixture(scope="module", name="slice_of_fuzz")
def _slice_of_fuzz(tmp_path_factory):
    """What `make fuzz` says, of fewer cases and another seed."""
    out = tmp_path_factory.mktemp("slice") / "fuzz.json"
    readers = [name for name in READERS if backends.installed("torch") or name not in OF_TORCH]
    words = [word for name in readers for word in ("--reader", name)]
    done = python(f"{MAIN}sys.exit(main())", *words, "--cases", 400, "--seed", 1, "--out", out)
    assert done.code == 0, done.err
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", READERS)
def test_no_generated_file_is_more_than_refused(name, slice_of_fuzz):
    if name not in slice_of_fuzz["readers"]:
        need("torch")
    count = slice_of_fuzz["readers"][name]
    assert count.keys() == {"accepted", "refused"}
    assert sum(count.values()) > 10 or name == "command"
    if name != "command":
        assert count["refused"] > sum(count.values()) // 8  # else the damage would be none


def test_every_reader_has_its_share():
    assert cases.SHARES.keys() == READERS.keys()
    assert {name: len(some) for name, some in cases.numbers(["spec", "npy"], 26).items()} == {
        "spec": 18,
        "npy": 8,
    }


DRAW = """
from tests.fuzz.cases import cases_of, draw
sample = cases_of({"spec.json": b'{"a": [1, 2.5], "b": "c"}', "best": b"step-00000002"})
for number in map(int, sys.argv[2:]):
    print(draw(sample, "x", int(sys.argv[1]), number))
print([name for name in sys.modules if name.startswith("fwt")])
"""
MAIN = "import sys\nfrom tests.fuzz.__main__ import main\n"


def test_a_case_is_a_function_of_seed_reader_and_number():
    """Drawn alone it is the same as among others, in a process that has nothing of the product."""
    drawn = {key: python(MAIN + DRAW, *key).out.splitlines()
             for key in ((0, 1, 2, 3), (0, 3), (1, 3))}  # fmt: skip
    assert drawn[0, 3] == drawn[0, 1, 2, 3][2:]
    assert drawn[1, 3][0] != drawn[0, 3][0]
    assert len(set(drawn[0, 1, 2, 3])) == 4
    assert all(lines[-1] == "[]" for lines in drawn.values())


def test_a_process_that_dies_or_hangs_is_a_finding_and_the_next_case_is_read(monkeypatch):
    with judge.Judge() as one:
        sample = one.take("spec")
        for number, text in ((signal.SIGKILL, "exit code -9"), (signal.SIGSTOP, "no end in 1 s")):
            (process,) = multiprocessing.active_children()
            os.kill(process.pid, number)
            with monkeypatch.context() as patch:
                patch.setattr(judge, "LONGEST_S", 1.0)
                one.send(sample)
                assert one.verdict() == Verdict("dead", text)
            one.send(sample)
            assert one.verdict() == Verdict("accepted")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def _paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(tree, dict | list):
        return [at]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [at, *(path for key, value in items for path in _paths(value, (*at, key)))]


SPEC = samples.spec().json_data()


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(path=st.sampled_from(_paths(SPEC)), value=JSON)
def test_a_spec_with_anything_in_any_place_is_refused_or_usable(path, value):
    data: Any = json.loads(json.dumps(SPEC))
    if path:
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    try:
        spec = RunSpec.parse(data if path else value, "spec")
        usable(spec)
    except FwtError as error:
        line = failure.one_line(error)
    else:
        line = ""
    assert line.isprintable()


STATE = json.loads(samples.layout("fwt", "fast-weights")["state.json"])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(path=st.sampled_from(_paths(STATE)[1:]), value=JSON)
def test_a_changed_state_is_refused(path, value, tmp_path_factory):
    data = json.loads(json.dumps(STATE))
    place = data
    for key in path[:-1]:
        place = place[key]
    same = place[path[-1]] == value and type(place[path[-1]]) is type(value)
    place[path[-1]] = value
    folder = tmp_path_factory.getbasetemp() / "changed state"
    put(folder, {**samples.layout("fwt", "fast-weights"), "state.json": json.dumps(data).encode()})
    if path == ("sha256", "state.json") and value == STATE["sha256"]["state.json"]:
        same = True
    if same:
        checkpoint.read(folder)
    else:
        with pytest.raises(CheckpointError):
            checkpoint.read(folder)


# --- the fuzzer can fail -------------------------------------------------------------------

HELD: list[Any] = []


def _eats(folder: Path) -> None:
    HELD.append(np.ones(200 * 2**20, np.uint8))


def _spins(folder: Path) -> None:
    import time

    end = time.process_time() + 2.1
    while time.process_time() < end:
        pass


def _broken(folder: Path) -> None:
    raise Broken("weights differ")


def _shouts(folder: Path) -> None:
    raise ConfigError("x" * 10**6)  # one_line shortens it: no finding


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda folder: {}["gone"], "crash"),
        (lambda folder: (folder.parent / "mine").write_text("x"), "escape"),
        (lambda folder: os.system("true"), "escape"),  # noqa: S605
        (lambda folder: os.rename(folder / "file", folder.parent / "file"), "escape"),
        (lambda folder: os.remove(folder.parent / "outside" / "none"), "escape"),
        (_broken, "silent"),
        (_eats, "memory"),
        (_spins, "slow"),
        (_shouts, "refused"),
        (lambda folder: (folder / "file").read_bytes(), "accepted"),
    ],
)
def test_every_kind_of_finding_is_seen(read: Callable[[Path], Any], kind: str, bench: Bench):
    try:
        assert bench.run(Reader(dict, read, True), {"file": b"x"}).kind == kind
    finally:
        HELD.clear()
        for name in ("mine", "file"):
            (bench.here.parent / name).unlink(missing_ok=True)


def test_a_file_left_by_a_reader_that_writes_nothing_is_seen(bench):
    def read(folder: Path) -> None:
        (folder / "new").write_text("x")

    assert bench.run(Reader(dict, read), {"file": b"x"}).kind == "escape"


def test_a_pickle_that_would_run_code_does(tmp_path, monkeypatch):
    """The canaries are real: unpickled, each leaves its file."""
    import pickle

    monkeypatch.chdir(tmp_path)
    for content in PICKLES:
        pickle.loads(content)
        (tmp_path / CANARY).unlink()


# --- text ----------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
BAD_JSON = {
    "deep": f'{{"a": {DEEP}}}',
    "twice": '{"format_version": 1, "format_version": 1}',
    "nan": '{"a": NaN}',
    "infinite": '{"a": 1e999}',
    "digits": '{"a": ' + "9" * 5000 + "}",
    "list": "[]",
    "latin": "é",
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_means_nothing_or_two_things_is_refused_everywhere(text, tmp_path):
    content = text.encode("latin-1")
    readers: dict[str, Callable[[Path], Any]] = {
        "run/spec.json": lambda path: RunFolder.open(path.parent).read_spec(),
        "run/DONE": lambda path: RunFolder(path.parent).read_json("DONE"),
        "run/run.json": lambda path: RunFolder(path.parent).sessions(),
        "config.json": read_config,
        "results.json": summary.load,
        "point/state.json": lambda path: checkpoint.read_state(path.parent),
        "given.json": lambda path: foreign._spec(path, {}, path),
    }
    for name, read in readers.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if (name, text) == ("run/run.json", BAD_JSON["list"]):
            continue
        with pytest.raises(FwtError):
            read(path)


BAD_TOML = {
    "deep": "a = " + "[" * 3000 + "]" * 3000,
    "hexadecimal": "[train]\nsteps = 0x" + "f" * 5000,
    "digits": "a = " + "9" * 5000,
}


@pytest.mark.parametrize("text", BAD_TOML.values(), ids=BAD_TOML)
def test_toml_that_is_none_is_refused(text, tmp_path):
    path = tmp_path / "file.toml"
    path.write_text(text)
    for read in (read_config, plan.read):
        with pytest.raises(ConfigError):
            read(path)


@pytest.mark.parametrize("version", ["²", "1" * 5000, "1.0", "-1", "१"])
def test_a_version_of_odd_digits_is_refused(version, point):
    arrays, labels = checkpoint.read_tensors(point / "model.safetensors")
    checkpoint.write_tensors(point / "alone", arrays, labels | {"fwt.format_version": version})
    with pytest.raises(CheckpointError, match=r"format version|is newer"):
        checkpoint.read(point / "alone")


@pytest.mark.parametrize(
    ("path", "value"),
    [("core.kind", []), ("core.kind", {}), ("core.inner_steps", 10**9), ("core.size", 2**63),
     ("core.size", 10**400), ("head.classes", 2**52), ("head.hidden", 2**62)],
)  # fmt: skip
def test_a_model_of_absurd_settings_is_refused(path, value):
    data = samples.spec().json_data()
    part, name = path.split(".")
    data["model"][part][name] = value
    with pytest.raises(ConfigError, match=name):
        RunSpec.parse(data, "spec")


def test_an_absurd_length_is_refused():
    data = samples.spec().json_data()
    data["train"] |= {"steps": None, "epochs": 1e308}
    with pytest.raises(ConfigError, match="epochs"):
        RunSpec.parse(data, "spec")


def test_an_error_line_can_be_shown_whatever_the_file_holds(monkeypatch):
    text = failure.one_line("a\x1b]0;t\x07b\u202ec\ud800d\nend " + "x" * 10**6 + " do this")
    assert text.startswith("a\\x1b]0;t\\x07b\\u202ec\\ud800d end xxx")
    assert text.endswith("xxx do this")
    assert len(text) < 2000
    text.encode("utf-8")


def test_too_little_memory_is_one_line(capsys):
    def act() -> None:
        raise MemoryError("Unable to allocate 8 EiB")

    assert failure.guarded(act) == failure.OUT_OF_MEMORY == 2
    assert capsys.readouterr().err == (
        "error: memory: not enough for what was asked: Unable to allocate 8 EiB\n"
    )


# --- files that are none -------------------------------------------------------------------


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _device])
def test_a_pipe_or_a_device_is_not_read_for_ever(make, tmp_path, bench, point, run):
    put(tmp_path / "images", samples.dataset("emnist-digits"))
    lstm = tmp_path / "lstm"
    put(lstm, samples.layout("torch"))
    image = next(iter(samples.dataset("emnist-digits")))
    reads: dict[Path, Callable[[Path], Any]] = {
        point / "state.json": lambda path: checkpoint.read(path.parent),
        point / "model.safetensors": lambda path: checkpoint.read(path.parent),
        lstm / "optimizer.safetensors": lambda path: foreign.load(path.parent),
        run / "best": lambda path: find_checkpoint(path.parent / "."),
        run / "metrics.jsonl": lambda path: RunFolder(path.parent).drop_metrics_after(1),
        run / "spec.json": lambda path: RunFolder(path.parent).read_spec(),
        run / "DONE": lambda path: RunFolder(path.parent).read_json("DONE"),
        tmp_path / "c.toml": read_config,
        tmp_path / "sweep.toml": plan.read,
        tmp_path / "results.json": summary.load,
        tmp_path / "images" / image: lambda path: datasets.images("emnist-digits", path.parent),
        tmp_path / "digit.npy": _digit,
        tmp_path / "digit.png": _digit,
    }
    for path, read in reads.items():
        make(path)
        found = bench.guard.judge(0, lambda path=path, read=read: read(path))
        if path.name == "best":  # not a file: there is no such pointer, and the last one is taken
            assert found == Verdict("accepted")
        else:
            assert found.kind == "refused", (path, found)


def _digit(path: Path) -> Any:
    from fwt import tasks

    return tasks.reader(tasks.parse({"kind": "mnist-glimpse"})).parse(str(path))


# --- arrays and archives -------------------------------------------------------------------


def _header(text: str, data: bytes = bytes(784)) -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + data


@pytest.mark.parametrize(
    "content",
    [
        _header("(" * 3000),
        _header("9" * 6000),
        _header("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}"),
        _header("{'descr': '|u1', 'fortran_order': False, 'shape': (-28, -28)}"),
        _header("{'descr': '|S0', 'fortran_order': False, 'shape': (1099511627776,)}", b""),
        _header("{'descr': '|O', 'fortran_order': False, 'shape': (28, 28)}"),
        npy_of(PICTURE) + b"\x00",
        npy_of(PICTURE)[:-1],
        npy_of(np.full((28, 28), np.nan)),
        b"\x93NUMPY\x09\x09" + bytes(20),
        *PICKLES,
    ],
)
def test_an_array_that_is_none_is_refused(content, tmp_path, bench):
    path = tmp_path / "digit.npy"
    path.write_bytes(content)
    assert bench.guard.judge(len(content), lambda: _digit(path)).kind == "refused"


def test_arrays_come_back_as_numpy_wrote_them():
    whole = np.arange(24, dtype=">f8").reshape(4, 6)
    for array in (whole, whole.T, whole[:, ::2], np.zeros((0, 3)), np.float32(2.5), whole > 3):
        file = io.BytesIO()
        np.save(file, array)
        found = files.from_npy(file.getvalue())
        assert found.dtype == np.asarray(array).dtype
        assert np.array_equal(found, array)
        assert found.shape == np.shape(array)


def _npz(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return path


def test_an_archive_of_other_things_than_arrays_is_refused(tmp_path, bench):
    bomb = npy_of(PICTURE)[:128] + bytes(2**26)
    for members in ({"a_txt": b"text"}, {"a_npy": bomb}, {"a_npy": PICKLES[0]}):
        path = _npz(tmp_path, **members)
        found = bench.guard.judge(0, lambda path=path: foreign._read_npz(path))
        assert found.kind == "refused", found
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy_of(PICTURE))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy_of(PICTURE))
    with pytest.raises(CheckpointError, match="each once"):
        foreign._read_npz(path)


def test_a_small_packed_file_does_not_unpack_to_gigabytes(tmp_path, bench):
    tree = samples.dataset("emnist-digits")
    name = next(iter(tree))
    for entry in (bytes(2**27), gzip.decompress(tree[name]) + bytes(2**27)):
        put(tmp_path / "images", {**tree, name: gzip.compress(entry, 1, mtime=0)})
        size = (tmp_path / "images" / name).stat().st_size
        found = bench.guard.judge(
            size, lambda: datasets.images("emnist-digits", tmp_path / "images")
        )
        assert found.kind == "refused", found
        assert "bytes unpacked" in found.text


def test_a_sparse_tensor_is_no_state_dict(tmp_path):
    need("torch")
    import torch

    from fwt.backends.torch.foreign import read_state_dict

    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="not a plain state dict"):
        read_state_dict(tmp_path / "w.pt")
