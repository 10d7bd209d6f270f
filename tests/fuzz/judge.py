"""A process that reads cases one after another, each in a fresh folder, and says how each ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.fuzz.tree import OUTSIDE, Tree, put, size
from tests.fuzz.verdict import Verdict

if TYPE_CHECKING:
    from tests.fuzz.readers import Reader

MOST = 5000  # cases of a process
LONGEST_S = 60.0  # a process that is silent for longer hangs where no signal reaches it


class Bench:
    """Where the cases of a process are made and read.

    Args:
        root: an empty folder; the cases' folder and one that nothing may touch are made in it.
    """

    def __init__(self, root: Path) -> None:
        from tests.fuzz.guard import Guard

        self.here = root / "here"
        self._outside = (self.here / OUTSIDE).resolve()
        self._outside.mkdir()
        (self._outside / "kept").write_text("kept")
        self.guard = Guard(self.here)

    def warm(self, reader: Reader) -> None:
        """Read the sample itself, which must be accepted; imports and caches are filled by it."""
        for _ in range(3):
            put(self.here, reader.sample())
            reader.read(self.here)

    def run(self, reader: Reader, tree: Tree) -> Verdict:
        """One case."""
        put(self.here, tree)
        before = sorted(os.listdir(self.here))
        verdict = self.guard.judge(size(tree), lambda: reader.read(self.here))
        kept = self._outside / "kept"
        if os.listdir(self._outside) != ["kept"] or kept.read_bytes() != b"kept":
            return Verdict("escape", "a file outside the folder was changed")
        if not reader.writes and sorted(os.listdir(self.here)) != before:
            return Verdict("escape", f"files were left: {os.listdir(self.here)}")
        return replace(verdict, text=verdict.text.replace(str(self.here), "HERE"))


def serve(root: Path, pipe: Connection) -> None:
    """Answer a reader's name with its sample, and a case with its verdict, to the pipe's end."""
    from tests.fuzz.readers import READERS

    os.chdir(root)  # what a pickle writes lands here
    bench = Bench(root)
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if isinstance(message, str):
            reader = READERS[message]
            bench.guard.limit(False)
            bench.warm(reader)
            bench.guard.limit(True)
            pipe.send(reader.sample())
        else:
            pipe.send(bench.run(reader, message))


class Judge:
    """Such a process, and another one when it has died or has done enough. A context manager."""

    def __init__(self) -> None:
        self._name = ""
        self._start()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = TemporaryDirectory(prefix="fwt-fuzz-")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(Path(self._folder.name), theirs))
        self._process.start()
        theirs.close()  # so that its death is this pipe's end
        self._left = MOST

    def _stop(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def _again(self) -> None:
        self._stop()
        self._start()
        self.take(self._name)

    def take(self, name: str) -> Tree:
        """Choose the reader of what comes, and get its valid files."""
        self._name = name
        self._pipe.send(name)
        sample: Tree = self._pipe.recv()
        return sample

    def send(self, case: Tree) -> None:
        """Let a case be read."""
        if not self._left:
            self._again()
        self._left -= 1
        with contextlib.suppress(BrokenPipeError):  # its end is the verdict
            self._pipe.send(case)

    def verdict(self) -> Verdict:
        """How the case ended that was sent."""
        try:
            if self._pipe.poll(LONGEST_S):
                verdict: Verdict = self._pipe.recv()
                return verdict
            how = f"no end in {LONGEST_S:.0f} s"
        except (EOFError, ConnectionResetError):
            self._process.join()
            how = f"exit code {self._process.exitcode}"
        self._again()
        return Verdict("dead", how)
