"""Ctrl-C, SIGTERM and SIGKILL in real processes: saved, said, and resumed bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fwt import backends
from fwt.fwcore.storage import checkpoint
from tests.cli_tools import (
    ROOT,
    TINY,
    Done,
    Forker,
    clean_environment,
    environment,
    good,
    python,
    words_of,
)
from tests.conftest import need
from tests.equal_runs import metrics, same_run
from tests.signal_tools import END, SAVE, START, UPDATE, WRITE, hit

# 12 updates; an epoch has 8; metrics, validations and saves fall on different updates
RUN = (
    *TINY, "--steps", "12", "--log-every", "5", "--eval-every", "4", "--save-every", "3",
    "--dropout", "0.1",
)  # fmt: skip
STOP_AT = 7  # between two saves, with an update that no line of metrics has covered yet


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(scope="module", name="references")
def _references(tmp_path_factory):
    """Backend -> its run without any interruption."""
    found: dict[str, Path] = {}

    def run_of(name: str) -> Path:
        need(name)
        if name not in found:
            found[name] = tmp_path_factory.mktemp("reference") / name
            good("train", *RUN, "--backend", name, "--out", found[name])
        return found[name]

    return run_of


@pytest.fixture(scope="module", name="forker")
def _forker(tmp_path_factory):
    need("torch")
    with Forker(tmp_path_factory.mktemp("forker")) as forker:
        yield forker


@pytest.fixture(name="start")
def _start(forker):
    """Starts `fwt train` on a backend in a process of its own."""

    def process(name: str, code: str, *arguments: object) -> Done:
        need(name)
        begin = forker if name == "torch" else python
        return begin(code, "train", *RUN, "--backend", name, *arguments)

    return process


def check_stopped(done: Done, code: int, run: Path, step: int) -> None:
    """Saved, and one line that says how to go on."""
    assert done.code == code, done
    (line,) = (line for line in done.err.splitlines() if not line.startswith("step "))
    assert f"at step {step} of 12" in line
    assert f"fwt train --resume {run}" in line
    assert done.out == ""
    assert checkpoint.read(run / "checkpoints" / f"step-{step:08d}").progress.step == step
    session = json.loads((run / "run.json").read_text())["sessions"][-1]
    assert f"exit {code}" in session["exit"]


@pytest.mark.parametrize("name", backends.TRAINING_ORDER)
@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_an_update(name, sent, code, references, start, tmp_path):
    whole, run = references(name), tmp_path / "run"
    done = start(name, hit(UPDATE, STOP_AT, sent), "--out", run)
    check_stopped(done, code, run, STOP_AT)
    good("train", "--resume", run, "--backend", name)
    stopped = f"checkpoints/step-{STOP_AT:08d}"
    assert not (run / stopped).exists()  # pruned like every other
    same_run(run, whole)
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [session["exit"].split(":")[0] for session in sessions] == [
        f"Interrupted (exit {code})",
        "done",
    ]


@pytest.mark.parametrize(
    ("name", "call"),  # after the weights, after the moments of the second save
    [("torch", 3), ("torch", 4), ("mlx", 3)],
)
def test_a_signal_in_a_save(name, call, references, start, tmp_path):
    whole, run = references(name), tmp_path / "run"
    done = start(name, hit(SAVE, call, "SIGTERM"), "--out", run)
    check_stopped(done, 143, run, 3)
    good("train", "--resume", run, "--backend", name)
    same_run(run, whole)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (UPDATE, STOP_AT),
        (SAVE, 1),  # in the very first save
        (SAVE, 3),
        (SAVE, 4),
        *((WRITE, count) for count in (6, 7, 8, 9)),  # states and pointers of the saves 3 and 4
    ],
)
def test_a_killed_process_resumes_to_the_same_result(where, count, references, start, tmp_path):
    whole, run = references("torch"), tmp_path / "run"
    done = start("torch", hit(where, count, "SIGKILL"), "--out", run)
    assert done.code == -signal.SIGKILL
    assert not (run / "DONE").exists()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "spl')  # and it died in the middle of a line
    good("train", "--resume", run, "--backend", "torch")
    same_run(run, whole)


def test_several_interruptions_in_one_run(references, tmp_path):
    whole, run = references("torch"), tmp_path / "run"
    first = good("train", *RUN, "--backend", "torch", "--stop-after", 2, "--out", run, "--json")
    assert (first.json["done"], first.json["step"], first.json["steps"]) == (False, 2, 12)
    good("train", "--resume", run, "--backend", "torch", "--stop-after", 5)
    good("train", "--resume", run, "--backend", "torch")
    same_run(run, whole)


def test_ctrl_c_from_outside_while_training(tmp_path):
    need("torch")
    run = tmp_path / "run"
    endless = ("--steps", 10**6, "--log-every", 20, "--backend", "torch", "--out", run)
    words = words_of((sys.executable, "-c", START + END, "train", *TINY, *endless))
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    (line,) = (line for line in err.splitlines() if not line.startswith("step "))
    assert f"go on with: fwt train --resume {run}" in line
    saved = good("eval", run / "checkpoints" / (run / "last").read_text().strip(), "--json")
    assert saved.json["step"] >= 8


def test_ctrl_c_before_anything_is_written(start, tmp_path):
    done = start(
        "torch", hit("fwt.fwcore:params:initialise", 1, "SIGINT"), "--out", tmp_path / "run"
    )
    assert done.code == 130, done
    assert done.err == "interrupted\n"
    assert not (tmp_path / "run").exists()


def test_a_line_of_metrics_covers_every_update_since_the_one_before(references, tmp_path):
    """Also those whose numbers a save or a validation has fetched from the device meanwhile."""
    each = tmp_path / "each"
    good("train", *RUN, "--log-every", 1, "--backend", "torch", "--out", each)
    keys = ("loss", "error_pct", "grad_norm")
    one = [[row[key] for key in keys] for row in metrics(each) if row["split"] == "train"]
    five = [
        [row[key] for key in keys] for row in metrics(references("torch")) if "grad_norm" in row
    ]
    means = [np.mean(one[first:last], axis=0) for first, last in ((0, 5), (5, 10), (10, 12))]
    assert len(one) == 12
    np.testing.assert_allclose(five, means, rtol=1e-12)


# --- what a person sees -------------------------------------------------------------------


COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
TERMINAL = f"""
import os
for name in {COLOURS!r}:
    os.environ.pop(name, None)
os.environ.update(TERM="xterm-256color", COLUMNS="120")
"""
SGR = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(forker: Forker, setting: str, *arguments: object) -> tuple[str, str]:
    """What `fwt` writes on stderr when that is a terminal, and on stdout when it is not."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65536):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    code = TERMINAL + f"os.environ.update({setting})\n" + START + END
    done = forker(code, *arguments, err=os.ttyname(theirs))
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.code == 0, shown
    return b"".join(shown).decode(), done.out


def test_a_terminal_gets_a_bar_with_loss_error_speed_and_time_left(forker, tmp_path):
    run = ("train", *RUN, "--log-every", 1, "--backend", "torch", "--out")
    shown, out = on_a_terminal(forker, "", *run, tmp_path / "bar", "--json")
    assert json.loads(out)["done"]
    assert SGR.search(shown)
    plain = SGR.sub("", shown)
    bar = r"step 12/12 ━+ loss \d\.\d{4}  error +\d+\.\d\d%  [\d,]+ examples/s \d:\d\d:\d\d left"
    assert re.search(bar, plain), plain[-500:]
    assert re.search(r"step +12  test +loss \d\.\d{4}  error +\d+\.\d\d%", plain)
    shown, _ = on_a_terminal(forker, "", *run, tmp_path / "quiet", "--quiet")
    assert shown == ""


def test_the_bar_of_a_resumed_run_begins_where_it_stopped(forker, tmp_path):
    run = tmp_path / "run"
    good("train", *RUN, "--backend", "torch", "--stop-after", 5, "--out", run)
    shown, _ = on_a_terminal(forker, "", "train", "--resume", run)
    assert SGR.sub("", shown).lstrip("\x1b[?25l").startswith("step 5/12 ")


def test_no_color_is_obeyed_and_stdout_is_plain(forker, tmp_path):
    run = ("train", *RUN, "--backend", "torch", "--out", tmp_path / "run")
    shown, out = on_a_terminal(forker, "NO_COLOR='1'", *run)
    assert "examples/s" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)  # no colour; bold would be allowed
    assert "test      error" in out
    assert "\x1b" not in out


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    need("torch")
    done = good("train", *RUN, "--backend", "torch", "--out", tmp_path / "run", "--json")
    assert done.json["done"]
    assert "\x1b" not in done.err
    splits = [line.split()[2] for line in done.err.splitlines()]
    assert splits == ["val", "train", "val", "train", "train", "val", "test"]
    reports = [line for line in done.err.splitlines() if " train " in line]
    assert all(re.search(r"examples/s  \d:\d\d:\d\d left$", line) for line in reports), reports
    assert reports[-1].endswith("  0:00:00 left")
    quiet = good("train", *RUN, "--backend", "torch", "--out", tmp_path / "quiet", "--quiet")
    assert quiet.err == ""
