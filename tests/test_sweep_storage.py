"""The database of a search: one that is locked, read-only, damaged or something else's."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from fwt.fwcore.errors import FileError, InUseError
from fwt.sweep.plan import SearchSpec
from fwt.sweep.study import Search, connect
from tests.cli_tools import TINY_BASE, clean_environment, refused

SPEC = SearchSpec.parse(
    {"trials": 4, "batch": 2, "seed": 5, "space": {"lr": {"low": 1e-4, "high": 1e-1}}}, "search"
)
SWEEP = f"""
name = "tiny"
task = "retrieval"
backend = "numpy"
{TINY_BASE}
steps = 2
[search]
trials = 2
batch = 2
[search.space]
lr = {{ low = 1e-4, high = 1e-1 }}
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(name="study")
def _study(tmp_path):
    """A database with a search in it, of which one trial was answered."""
    search = searched(tmp_path / "study.db")
    first, _ = search.ask()
    search.tell(first, 12.5)
    return tmp_path / "study.db"


def url(path, more="?timeout=0.05"):
    return f"sqlite:///{path}{more}"


def searched(path, more="?timeout=0.05"):
    return Search(connect(url(path, more)), "tiny/irnn", SPEC, {"task": "retrieval"})


def test_a_locked_database_is_named_at_every_question_and_left_alone(study):
    search = searched(study)
    trial = search.known()[1]
    with closing(sqlite3.connect(study)) as other:
        other.execute("begin exclusive")
        for asked in (search.known, search.partial, search.ask, lambda: search.tell(trial, 1.0)):
            with pytest.raises(FileError, match="database is locked; what ran is kept"):
                asked()
        with pytest.raises(FileError, match="database is locked"):
            connect(url(study))
    assert [(one.number, one.told) for one in search.known()] == [(0, True), (1, False)]
    search.tell(trial, 1.0)
    assert [one.told for one in search.known()] == [True, True]


def test_a_database_that_is_locked_for_a_moment_is_waited_for(study):
    search = searched(study, "")
    with closing(sqlite3.connect(study, check_same_thread=False)) as other:
        other.execute("begin exclusive")
        timer = threading.Timer(0.3, other.rollback)
        timer.start()
        begun = time.monotonic()
        search.tell(search.known()[1], 1.0)
        assert time.monotonic() - begun > 0.1
        timer.join()
    assert [one.told for one in search.known()] == [True, True]


def test_a_database_that_cannot_be_written_is_named(study):
    before = study.read_bytes()
    with pytest.raises(FileError, match="readonly database; what ran is kept"):
        searched(f"file:{study}", "?mode=ro&uri=true&timeout=0.05")
    assert study.read_bytes() == before


def test_a_database_of_another_version_or_of_something_else_is_named_and_left_alone(study):
    newer, foreign, junk = (study.with_name(f"{name}.db") for name in ("newer", "foreign", "junk"))
    shutil.copy(study, newer)
    for path, text in (
        (newer, "update alembic_version set version_num = 'v9.0.0.a'"),
        (foreign, "create table books (title text)"),
    ):
        with closing(sqlite3.connect(path)) as database:
            database.execute(text)
            database.commit()
    junk.write_bytes(b"no database at all" * 100)
    for path, words in (
        (newer, "no longer compatible"),
        (foreign, "a database with other tables: books"),
        (junk, "file is not a database"),
    ):
        before = path.read_bytes()
        with pytest.raises(FileError, match=words):
            connect(url(path))
        assert path.read_bytes() == before


def test_tables_that_are_gone_are_named(study):
    search = searched(study)
    with closing(sqlite3.connect(study)) as database:
        database.execute("drop table trial_params")
        database.commit()
    with pytest.raises(FileError, match="no such table: trial_params"):
        search.ask()


def test_a_study_that_another_process_searches_too_is_not_drawn_from(study):
    one, two = searched(study), searched(study)
    one_trials, two._trials = one.ask(), lambda: one.known()[:2]  # it looked a moment before
    with pytest.raises(InUseError, match="searched by another process, which drew trial 2"):
        two.ask()
    assert [trial.number for trial in one_trials] == [2, 3]


def test_a_sweep_whose_database_is_locked_ends_with_one_line(tmp_path):
    file, runs, database = tmp_path / "tiny.toml", tmp_path / "runs", tmp_path / "study.db"
    file.write_text(SWEEP)
    with closing(sqlite3.connect(database)) as other:
        other.execute("begin exclusive")
        more = ("--storage", url(database), "--runs-dir", runs, "--quiet")
        refused(4, ("--storage", str(database), "database is locked"), "sweep", file, *more)
    assert not (runs / "retrieval").exists()
