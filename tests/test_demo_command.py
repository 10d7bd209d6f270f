"""`fwt demo` without a browser: what it shows and refuses, its clock, and its process."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace
from urllib.request import proxy_bypass

import pytest

from fwt import tasks
from fwt.demo import process, steps, view
from fwt.fwcore.errors import FileError
from fwt.fwcore.spec import ModelSpec
from tests.blocked import RUN, blocked
from tests.cli_tools import (
    check_refusal,
    clean_environment,
    python,
    refused,
)


@pytest.mark.parametrize(("by", "t", "now"), [(1, 1, 2), (-1, 1, 0), (-1, 0, 0), (1, 3, 3)])
def test_a_step_stays_within_the_sequence(by, t, now, monkeypatch):
    pytest.importorskip("gradio")
    from fwt.demo import playing

    monkeypatch.setattr(playing.view, "frame", lambda story, t: f"frame {t}")
    story = SimpleNamespace(last=3)
    assert playing.mover(by)(story, t) == (now, f"frame {now}")


def test_play_goes_on_to_the_end_and_begins_again_there(monkeypatch):
    pytest.importorskip("gradio")
    from fwt.demo import playing

    monkeypatch.setattr(playing.view, "frame", lambda story, t: f"frame {t}")
    story = SimpleNamespace(last=2)

    def told(found):
        clock, name, *rest = found
        return clock["active"], name, *rest

    assert told(playing.toggle(story, 2, playing.PLAY)) == (True, playing.PAUSE, 0, "frame 0")
    assert told(playing.tick(story, 0)) == (True, playing.PAUSE, 1, "frame 1")
    assert told(playing.tick(story, 1)) == (False, playing.PLAY, 2, "frame 2")
    assert told(playing.tick(story, 2))[:2] == (False, playing.PLAY)
    assert told(playing.toggle(story, 1, playing.PAUSE))[:2] == (False, playing.PLAY)
    assert told(playing.toggle(None, 0, playing.PLAY))[:2] == (False, playing.PLAY)


def test_a_page_says_which_network_it_shows():
    def headline(**core):
        encoder = {"kind": "embedding", "symbols": 37, "size": 4}
        data = {"encoder": encoder, "core": {"size": 5, **core}, "head": {"classes": 10}}
        spec = ModelSpec.parse(data, "test")
        reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
        return view.headline(steps.Subject("mine", spec, reader, lambda name: None))

    fast = headline(kind="fast-weights")
    assert "<h1>Fast weights, step by step</h1>" in fast
    assert "λ <i>A</i>" in fast
    for kind, words in (("lstm", "cells <i>c</i>"), ("gru", "gates"), ("rnn", "hidden state")):
        shown = headline(kind=kind)
        assert f"<h1>{kind}, step by step</h1>" in shown
        assert "This network has no fast matrix" in shown
        assert words in shown
        assert "Fast weights" not in shown


def test_of_what_is_shipped_the_smallest_with_fast_weights_of_each_task_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwt.cli.demo import _shipped

    monkeypatch.setattr("fwt.shipped.folder", lambda: tmp_path)
    rows = [("a", "t", "lstm", 5), ("b", "t", "fast-weights", 50), ("c", "u", "fast-weights", 100),
            ("d", "t", "fast-weights", 20), ("e", "u", "fast-weights", 200)]  # fmt: skip
    index = {name: {"task": task, "model": model, "size": size} for name, task, model, size in rows}
    for name in index:
        (tmp_path / name).mkdir()
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert _shipped() == [tmp_path / "d", tmp_path / "c"]


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch):
    clean_environment(monkeypatch)
    refused(4, ("no such file",), "demo", tmp_path / "none")
    refused(2, ("unknown name 'numpi'", "did you mean 'numpy'"), "demo", "--backend", "numpi")
    monkeypatch.setattr("fwt.shipped.folder", lambda: tmp_path)
    refused(2, ("name a run: fwt demo RUN", str(tmp_path)), "demo", "--backend", "numpy")
    monkeypatch.undo()
    done = python(blocked("gradio") + RUN, "demo")
    assert done.code == 3
    check_refusal(done, ["demo: gradio is blocked", "pip install 'fwt[demo]'"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("--port: expected an address", f"127.0.0.1:{port} (Address already in use")
        refused(2, words, "demo", "--port", port)


def test_what_gradio_reads_of_the_process_holds_while_it_is_needed(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.invalid")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "everybodys")
    users = dict(os.environ)
    with process.surroundings():
        served = dict(os.environ)
        own = Path(served["GRADIO_TEMP_DIR"])
        assert own.stat().st_mode & 0o777 == 0o700
        changed = {name for name in served if served[name] != users.get(name)}
        assert changed == {"GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "MPLBACKEND"}
        with process.past_proxies():
            assert os.environ.items() - served.items() == {("no_proxy", "*")}
            assert proxy_bypass("127.0.0.1")
        assert dict(os.environ) == served
        assert not proxy_bypass("127.0.0.1")
        (own / "upload").write_text("a file")
    assert dict(os.environ) == users
    assert not own.exists()


def test_no_room_for_temporary_files_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FileError, match="no temporary folder can be made: No such file"):  # noqa: SIM117
        with process.surroundings():
            raise AssertionError
