"""Durability as far as a system offers it: CIFS, Windows and failing disks, by patched calls."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from fwt.fwcore.errors import ConfigError, FileError
from fwt.fwcore.storage import durable
from fwt.fwcore.storage.runs import DESKTOP, RunFolder
from tests.cli_tools import TINY, clean_environment, good, refused, snapshot
from tests.conftest import need
from tests.small_run import SPEC

FAILURES = (errno.EIO, errno.ENOSPC)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def no_folder_sync(number):
    """A file system whose folders cannot be synced, as CIFS and some of FUSE are."""

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


def writable_fsync(handle):
    """Windows: a file is synced through a handle that may write."""
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def no_folder_open(real):
    """Windows: a folder cannot be opened as a file is."""

    def call(path, *arguments, **named):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path, *arguments, **named)

    return call


@pytest.mark.parametrize("number", sorted(durable.NO_FOLDERS))
def test_a_run_begins_where_folders_cannot_be_synced(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_folder_sync(number))
    assert RunFolder.create(tmp_path / "run", SPEC).read_spec() == SPEC


def test_training_is_saved_where_folders_cannot_be_opened_or_synced(tmp_path, monkeypatch):
    need("torch")
    monkeypatch.setattr(os, "fsync", writable_fsync)
    monkeypatch.setattr(os, "open", no_folder_open(os.open))
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # which open folders
    good("train", *TINY, "--backend", "torch", "--stop-after", 2, "--out", tmp_path / "run")
    good("train", "--resume", tmp_path / "run", "--backend", "torch")
    monkeypatch.undo()
    clean_environment(monkeypatch)
    good("eval", tmp_path / "run", "--backend", "numpy")


@pytest.mark.parametrize("number", sorted(durable.NOT_OFFERED))
def test_a_file_is_written_where_nothing_can_be_synced(number, tmp_path, monkeypatch):
    def fsync(_handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write_text(tmp_path / "file", "new")
    assert snapshot(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_cannot_be_begun_leaves_nothing_and_begins_the_next_time(
    number, count, tmp_path, monkeypatch
):
    """The disk fails at the file of the spec, then at its folder, when the file has its name."""
    calls = []
    real = os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) == count:
            raise OSError(number, os.strerror(number))
        real(handle)

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    for out in ("mine", "far/below/run"):
        calls.clear()
        with pytest.raises(FileError, match=r"spec\.json: cannot be written") as found:
            RunFolder.create(tmp_path / out, SPEC)
        assert os.strerror(number) in str(found.value)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "mine"]  # which was there before
    monkeypatch.undo()
    for out in ("mine", "far/below/run"):
        assert RunFolder.create(tmp_path / out, SPEC).read_spec() == SPEC


# --- a file in use --------------------------------------------------------------------------


class InUse:
    """`os.replace` on Windows while another process has the file open, for `count` calls."""

    def __init__(self, count, winerror):
        self.count, self.winerror, self.calls, self.real = count, winerror, 0, os.replace

    def __call__(self, source, target):
        self.calls += 1
        if self.calls <= self.count:
            error = PermissionError(errno.EACCES, "Access is denied", os.fspath(source))
            if self.winerror:
                error.winerror = self.winerror
            raise error
        self.real(source, target)


@pytest.mark.parametrize("winerror", durable.IN_USE)
def test_a_file_in_use_is_replaced_once_it_is_free(winerror, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", InUse(3, winerror))
    durable.write_text(tmp_path / "file", "new")
    assert snapshot(tmp_path) == {"file": b"new"}
    assert waits == list(durable.WAITS[:3])


@pytest.mark.parametrize(("winerror", "waits"), [(32, durable.WAITS), (None, ())])
def test_a_file_that_stays_in_use_is_an_error_after_a_bounded_wait(
    winerror, waits, tmp_path, monkeypatch
):
    """A folder that may not be written is one at once: it has no such number."""
    durable.write_text(tmp_path / "file", "old")
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "replace", InUse(100, winerror))
    with pytest.raises(FileError, match="file: cannot be written: Access is denied"):
        durable.write_text(tmp_path / "file", "new")
    assert snapshot(tmp_path) == {"file": b"old"}
    assert slept == list(waits)
    assert sum(durable.WAITS) < 1


# --- small files ----------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [(durable, "create"), (os, "replace"), (os, "fsync")])
def test_a_small_file_is_written_whole_or_not_at_all(owner, name, tmp_path, monkeypatch):
    durable.write_text(tmp_path / "file", "old")

    def broken(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(FileError, match="file: cannot be written: Input/output error"):
        durable.write_text(tmp_path / "file", "new")
    assert snapshot(tmp_path) == {"file": b"old"}


def test_what_a_link_in_the_place_of_the_unfinished_file_points_at_is_kept(tmp_path):
    (tmp_path / "mine").write_text("kept")
    durable.partial_of(tmp_path / "file").symlink_to(tmp_path / "mine")
    durable.write_text(tmp_path / "file", "new")
    assert snapshot(tmp_path) == {"file": b"new", "mine": b"kept"}


def test_text_with_a_name_that_is_no_utf8_is_written_with_an_escape(tmp_path):
    durable.write_text(tmp_path / "file", f"é {os.fsdecode(b'caf' + bytes([0xE9]))}")
    assert (tmp_path / "file").read_text() == "é caf\\udce9"


# --- where a run may begin ------------------------------------------------------------------


@pytest.mark.parametrize("name", DESKTOP)
def test_a_folder_with_a_file_managers_own_file_alone_is_free(name, tmp_path):
    (tmp_path / name).write_bytes(b"\0")
    assert RunFolder.create(tmp_path, SPEC).read_spec() == SPEC
    assert (tmp_path / name).read_bytes() == b"\0"
    with pytest.raises(ConfigError, match="exists; go on with: fwt train --resume"):
        RunFolder.create(tmp_path, SPEC)


def test_a_folder_that_holds_no_run_is_not_offered_to_go_on_with(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path, kind in ((tmp_path, "a folder that holds something else"),
                       (tmp_path / "notes.txt", "a file")):  # fmt: skip
        done = refused(2, ["exists", kind, "choose another folder"],
                       "train", *TINY, "--backend", "torch", "--out", path)  # fmt: skip
        assert "--resume" not in done.err
    assert snapshot(tmp_path) == {"notes.txt": b"mine"}


def test_a_mount_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def mkdir(self, *_arguments, **_named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    words = [str(tmp_path / "run"), "cannot be written", "Read-only file system"]
    refused(4, words, "train", *TINY, "--backend", "torch", "--out", tmp_path / "run")
