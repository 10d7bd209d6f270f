"""Many runs at once need as many open files: asked for before anything is made."""

from __future__ import annotations

import os
import resource

import pytest

from fwt.fwcore.errors import ConfigError, FileError
from fwt.fwcore.storage import descriptors
from fwt.fwcore.storage.descriptors import room, room_for
from fwt.fwcore.storage.runs import RunFolder
from tests.cli_tools import TINY, clean_environment, good, python, refused
from tests.conftest import light, need
from tests.sweep_tools import SWEEP, short_jobs, sweep_file

WORDS = (*TINY, "--quiet", "--backend")
# `fwt` in a process whose limits are the first two arguments
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:3])))
from fwt.cli.main import run
code = run(sys.argv[3:])
assert resource.getrlimit(resource.RLIMIT_NOFILE) == tuple(map(int, sys.argv[1:3]))
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def test_a_population_beyond_the_hard_limit_is_refused_before_anything_is_made(tmp_path):
    words = ["train", *WORDS, light(), "--runs-dir", tmp_path / "runs", "--seeds"]
    done = python(LIMITED, 100, 100, *words, "0-119")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: train: 120 runs together: expected a limit of at least ")
    assert line.endswith(" open files, got 100; raise it (ulimit -n) or take fewer at once")
    assert not (tmp_path / "runs").exists()


def test_a_soft_limit_is_raised_meanwhile(tmp_path):
    words = ["train", *WORDS, light(), "--runs-dir", tmp_path / "runs", "--seeds"]
    done = python(LIMITED, 40, 4096, *words, "0-11", MLX_DISABLE_COMPILE="1")
    assert done.code == 0, done
    assert len(list((tmp_path / "runs" / "retrieval").iterdir())) == 12


def test_room_is_what_the_hard_limit_leaves(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (80, 200))
    here = len(os.listdir("/dev/fd"))
    assert room() in (200 - here - descriptors.SPARE - 1, 200 - here - descriptors.SPARE)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, 10))
    assert room() == 1
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (infinite, infinite))
    with room_for(10**6, "train"):
        assert room() > 10**6


def test_the_limit_is_raised_and_put_back():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (descriptors.SPARE, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        with room_for(100, "train"):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100 + descriptors.SPARE
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == low
        with pytest.raises(ConfigError, match="train: expected a limit of at least"):
            room_for(before[1], "train").__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_there_are_no_limits_all_is_allowed(monkeypatch):
    monkeypatch.setattr(descriptors, "resource", None)
    with room_for(10**9, "train"):
        assert room() > 10**9


def test_a_population_that_cannot_be_made_whole_leaves_nothing_and_can_be_tried_again(
    tmp_path, monkeypatch
):
    need("torch")
    real, made = RunFolder.create.__func__, []

    def fails(cls, path, spec):
        if len(made) == 2:
            raise FileError(f"out: {path} cannot be written: No space left on device")
        made.append(path)
        return real(cls, path, spec)

    words = ("train", *WORDS, "torch", "--out", tmp_path / "many", "--seeds", "0-3")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "create", classmethod(fails))
        refused(4, ("No space left on device",), *words)
    assert len(made) == 2
    assert list((tmp_path / "many").iterdir()) == []
    good(*words)
    assert len(list((tmp_path / "many").iterdir())) == 4


def test_more_processes_than_open_files_allow_are_refused(tmp_path):
    file = sweep_file(tmp_path, "many", f"{SWEEP}steps = 4\n[axes]\nseed = '0-1'\n")
    words = ["sweep", file, "--runs-dir", tmp_path / "runs", "--quiet", "--workers"]
    done = python(LIMITED, 100, 100, *words, 20)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: --workers: 20 processes: expected a limit of at least ")
    assert not (tmp_path / "runs" / "retrieval").exists()


def test_a_batch_of_a_sweep_is_as_large_as_there_is_room(tmp_path, monkeypatch):
    need("torch")
    from fwt.execute import batch
    from fwt.fwcore.training.group import Hooks

    sizes, real = [], batch.prepare

    def prepare(jobs, load):
        sizes.append(len(jobs))
        return real(jobs, load)

    monkeypatch.setattr(batch, "room", lambda: 2)
    monkeypatch.setattr(batch, "prepare", prepare)
    ended = batch.work(short_jobs(tmp_path, 4), Hooks())
    assert sizes == [2, 2]
    assert [each.failure for each in ended] == [None] * 4
