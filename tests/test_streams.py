"""Standard streams that are closed, full, broken, missing or narrow, in real processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fwt.fwcore.storage.runs import RunFolder
from tests.cli_tools import ROOT, TINY, environment, good, python, snapshot
from tests.conftest import light

FULL = Path("/dev/full")
EAGER = {"MLX_DISABLE_COMPILE": "1"}


STRINGS = "checkpoints/retrieval-fast-weights-r20"
HELP = "from fwt.cli.main import main\nmain()"
FAULT = """
import fwt.cli.main
def fault():
    print("a part of the result")
    raise RuntimeError("a fault")
fwt.cli.main.run = fault
fwt.cli.main.main()
"""


def shell(
    line: str, *arguments: object, encoding: str = "utf-8", **extra: str
) -> subprocess.CompletedProcess[str]:
    """A line of bash in which "$@" is `fwt` with arguments."""
    words = ["bash", "-c", line, "bash", sys.executable, "-m", "fwt", *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        encoding=encoding,
        cwd=ROOT,
        env=environment(**EAGER, **extra),
        timeout=120,
    )


needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def test_a_result_that_nobody_reads_is_no_fault() -> None:
    done = shell('"$@" | true; echo "code ${PIPESTATUS[0]}"', "list")
    assert (done.stdout, done.stderr) == ("code 0\n", "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param('"$@" >/dev/full', "No space left on device", marks=needs_full),
        ('"$@" >&-', "it is closed"),
    ],
)
def test_a_lost_result_is_one_line(line: str, why: str) -> None:
    done = shell(line, "list")
    assert done.returncode == 4
    assert done.stderr == f"error: stdout: cannot be written: {why}; the result is lost\n"


def test_a_closed_stderr_puts_no_progress_into_the_result(tmp_path: Path) -> None:
    words = ("train", *TINY, "--backend", light(), "--out", tmp_path / "run", "--json")
    done = shell('"$@" 2>&-', *words)
    assert done.returncode == 0
    assert json.loads(done.stdout)["done"] is True
    assert (tmp_path / "run" / "DONE").exists()


@pytest.mark.parametrize(
    "line",
    [
        '"$@" 2>&1 | head -n 1 >/dev/null; exit "${PIPESTATUS[0]}"',
        pytest.param('"$@" >/dev/null 2>/dev/full', marks=needs_full),
    ],
)
def test_a_run_goes_on_without_those_who_watch(line: str, tmp_path: Path) -> None:
    words = ("train", *TINY, "--backend", light(), "--log-every", 1, "--out", tmp_path / "run")
    done = shell(line, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "DONE").exists()


def test_a_closed_stdin_is_an_empty_one() -> None:
    done = shell('"$@" <&-', "predict", STRINGS, "-b", "numpy")
    assert done.returncode != 0
    assert done.stderr == "error: predict: expected an example a line, got none in stdin\n"


@pytest.mark.parametrize(
    ("encoding", "named"), [("ascii", "caf\\xe9-\\u03bb"), ("cp1252", "caf\xe9-\\u03bb")]
)
def test_a_narrow_encoding_gets_escapes_and_loses_no_result(
    encoding: str, named: str, tmp_path: Path
) -> None:
    folder = tmp_path / "caf\u00e9-\u03bb"
    words = ("convert", STRINGS, "--to", "mlx", folder)
    done = shell('"$@"', *words, PYTHONIOENCODING=encoding, encoding=encoding)
    assert done.returncode == 0, done
    assert done.stdout.startswith(f"wrote {tmp_path / named} in the mlx layout")
    done = shell('"$@"', "eval", folder / "none", PYTHONIOENCODING=encoding, encoding=encoding)
    assert done.returncode == 4
    assert f"{tmp_path / named}/none: no such file" in done.stderr


def test_bytes_on_stdin_that_are_no_text_are_one_line() -> None:
    done = shell("printf '\\xff' | \"$@\"", "predict", STRINGS, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: predict: stdin cannot be read: 'utf-8' codec can't decode")


def test_a_bad_byte_in_a_conversation_is_named_and_the_next_line_is_answered() -> None:
    code = (
        "import io, sys\n"
        "from fwt.cli.predict import _converse\n"
        "sys.stdin = io.TextIOWrapper(io.BytesIO(b'\\xff\\n'), encoding='utf-8')\n"
        "_converse(None, 1)\n"
    )
    done = python(code)
    assert done.code == 0, done
    assert done.err.startswith("> error: 'utf-8' codec can't decode byte 0xff in position 0")


@pytest.mark.parametrize("columns", ["20", "40"])
def test_the_help_can_be_read_in_few_columns(columns: str) -> None:
    done = python(HELP, "eval", "--help", COLUMNS=columns)
    assert done.code == 0, done
    lines = [line.strip() for line in done.out.splitlines()]
    assert "-b, --backend <str>  Framework: auto, torch, mlx" in lines
    assert "or numpy.  [env var:" in lines


@pytest.mark.parametrize("line", ['"$@" >/dev/full', '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}'])
@needs_full
def test_a_fault_of_the_product_keeps_its_code_whatever_becomes_of_stdout(line: str) -> None:
    words = [sys.executable, "-c", FAULT]
    done = subprocess.run(
        ["bash", "-c", line, "bash", *words],
        capture_output=True, text=True, cwd=ROOT, env=environment(**EAGER), timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("force", ["0", "1"])
def test_a_bar_is_for_terminals_whatever_colour_is_forced(force: str, tmp_path: Path) -> None:
    words = ("train", *TINY, "--backend", light(), "--log-every", 2, "--out", tmp_path / "run")
    done = shell('"$@"', *words, **({"FORCE_COLOR": "1"} if force == "1" else {}))
    assert done.returncode == 0
    assert all(line.startswith("step ") for line in done.stderr.splitlines())


SLOW = """
import sys, time
from fwt.cli import streams
from fwt.cli.main import run
from fwt.fwcore.training.batches import BatchOrder
real = BatchOrder.rows
def rows(*arguments):
    time.sleep(0.1)
    return real(*arguments)
BatchOrder.rows = rows
sys.exit(streams.guarded(lambda: run(sys.argv[1:])))
"""


def test_a_terminal_that_is_closed_saves_the_run(tmp_path: Path) -> None:
    """The terminal's end sends SIGHUP, and what is written to it then fails."""
    run = tmp_path / "run"
    words = ("train", *TINY, "--backend", light(), "--log-every", "1", "--out", str(run))
    leader, follower = pty.openpty()
    began = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)],
        stdin=follower, stdout=follower, stderr=follower, cwd=ROOT, env=environment(**EAGER),
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while b"step" not in seen:
        seen += os.read(leader, 4096)
    os.close(leader)
    began.send_signal(signal.SIGHUP)
    assert began.wait(60) == 128 + signal.SIGHUP
    folder = RunFolder(run)
    assert "Interrupted (exit 129): train: stopped by signal 1" in folder.state()
    assert folder.latest_step() is not None
    assert snapshot(run)


def test_below_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", *TINY, "--backend", light(), "--out", str(run))
    began = subprocess.Popen(
        ["nohup", sys.executable, "-c", SLOW, *map(str, words)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=ROOT, env=environment(**EAGER),
    )  # fmt: skip
    while not (run / "run.json").exists():
        time.sleep(0.05)
    began.send_signal(signal.SIGHUP)
    assert began.wait(60) == 0
    assert (run / "DONE").exists()


def test_a_run_whose_process_is_gone_is_not_called_running(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(run)
    sessions = folder.sessions()
    folder.write_json("run.json", {"sessions": [{**sessions[-1], "exit": "running"}]})
    with folder:
        assert RunFolder(run).state() == "running"
    gone = "its process is gone; saved step 2"
    assert RunFolder(run).state() == gone
    (facts,) = good("report", run, "--out", tmp_path / "page.html", "--json").json["runs"]
    assert (facts["state"], facts["sessions"][-1]["exit"]) == (gone, gone)
    assert gone in (tmp_path / "page.html").read_text()
    good("train", "--resume", run, "--quiet")
    assert [each["exit"] for each in folder.sessions()] == [gone, "done"]
