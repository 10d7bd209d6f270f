"""How tests run `fwt`: in this process, or as a process of its own; and a run that is tiny."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fwt.cli.main import run

DIGITS = ("train", "--task", "mnist-glimpse")

ROOT = Path(__file__).resolve().parent.parent

# nothing is downloaded, and results are the same to the bit, which a GPU does not promise
SETTINGS = {"FWT_OFFLINE": "1", "FWT_DEVICE": "cpu"}

# 256 training strings in batches of 32: 8 updates an epoch
SMALL = ("--set", "task.train=256", "--set", "task.val=64", "--set", "task.test=64")
TINY = (
    "--task", "retrieval", "--size", "4", "--batch-size", "32", "--lr", "0.001", "--schedule",
    "constant", "--steps", "6", *SMALL,
)  # fmt: skip
# runs as small in a sweep file, without their length
TINY_BASE = """
[base]
"task.train" = 256
"task.val" = 64
"task.test" = 64
size = 4
batch_size = 32
schedule = "constant"
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def words_of(arguments: Sequence[object]) -> list[str]:
    """Arguments as words; of an option of `fwt train` that stands twice, the last.

    So a test may add to `TINY` what it needs, which the command itself would refuse.
    """
    words = [str(argument) for argument in arguments]
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    names = [" ".join(group[:1]) for group in groups]
    if "train" not in groups[0] or len(set(names)) == len(names):
        return words
    # what follows an option and its value are short options, which stay
    kept = [
        group if name == "--set" or name not in names[at + 1 :] else group[2:]
        for at, (name, group) in enumerate(zip(names, groups, strict=True))
    ]
    return [word for group in kept for word in group]


def fwt(*arguments: object) -> Done:
    """The real command, in this process."""
    return typed(*words_of(arguments))


def typed(*words: str) -> Done:
    """The same, with words just as they are."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(words))
    return Done(code, out.getvalue(), err.getvalue())


def good(*arguments: object) -> Done:
    """The same, for a command that must succeed."""
    done = fwt(*arguments)
    assert done.code == 0, done
    return done


def refused(code: int, words: Sequence[str], *arguments: object) -> Done:
    """The same, for a command that must fail with one line that has all of `words`."""
    done = fwt(*arguments)
    assert done.code == code, done
    check_refusal(done, words)
    assert done.out == ""
    return done


def check_refusal(done: Done, words: Sequence[str]) -> None:
    """One `error:` line on stderr, after nothing but progress, with all of `words`."""
    lines = [line for line in done.err.splitlines() if not line.startswith("step ")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: "), done.err
    missing = [word for word in words if word not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"


def environment(**extra: str) -> dict[str, str]:
    """The environment of this process without the FWT_* settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWT_")}
    return {**kept, **SETTINGS, **extra}


def python(code: str, *arguments: object, **extra: str) -> Done:
    """A Python process in the checkout that runs `code`."""
    words = [sys.executable, "-c", code, *words_of(arguments)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=environment(**extra), timeout=120
    )
    return Done(done.returncode, done.stdout, done.stderr)


FORKER = """
import json, os, signal, sys, traceback
import fwt.backends.torch.backend, fwt.cli.main, fwt.execute.alone, fwt.fwcore.storage.foreign
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        # a test run in the background of a shell hands on that Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((1, job["out"]), (2, job["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv, code = ["-c", *job["arguments"]], 0
        try:
            exec(job["code"], {"__name__": "__main__"})
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # shown, as Python would; a child must never go on in this loop
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forker:
    """Processes that have PyTorch imported already, which saves seconds each; nothing has run yet.

    A context manager; `folder` is for their output.
    """

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._server = subprocess.Popen(
            [sys.executable, "-c", FORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def __enter__(self) -> Forker:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=60)

    def __call__(self, code: str, *arguments: object, err: str = "") -> Done:
        """Like `python`; `err` names a terminal that stderr is to be."""
        words = words_of(arguments)
        self._err.write_text("")
        places = {"out": str(self._out), "err": err or str(self._err)}
        job = {"code": code, "arguments": words, **places}
        to, back = self._server.stdin, self._server.stdout
        assert to is not None
        assert back is not None
        to.write(json.dumps(job) + "\n")
        to.flush()
        return Done(int(back.readline()), self._out.read_text(), self._err.read_text())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in held]


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No FWT_* setting of the person who runs the tests gets into them."""
    for name in list(os.environ):
        if name.startswith("FWT_"):
            monkeypatch.delenv(name)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes; the lock's empty file is no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
