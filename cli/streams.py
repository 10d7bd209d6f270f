"""The standard streams of the process: whatever is wrong with one of them, the work goes on.

A stream may be closed, missing, full, a pipe that nobody reads, a terminal that is gone, or of an
encoding that lacks a character. What is only shown (stderr) is then dropped. What is the result
(stdout) is remembered as lost, and told of once the work is done.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from fwt.fwcore.errors import FileError

ESCAPE = "backslashreplace"  # what becomes of a character that the encoding lacks


class Lossy:
    """A text stream that never raises: what cannot be written is dropped.

    Args:
        stream: where to write.
        closed: whether it only stands for a stream that is closed.

    Attributes:
        lost: the first error, or None.
    """

    def __init__(self, stream: TextIO, closed: bool) -> None:
        self._stream, self._closed = stream, closed
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        if self.lost is None:
            try:
                action()
            except OSError as error:
                self.lost = error

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self._closed:
            self.lost = OSError(errno.EBADF, "it is closed")
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered, or drop it."""
        self._try(self._stream.flush)

    def end(self, number: int) -> OSError | None:
        """The error that lost something. The interpreter will find nothing to complain of."""
        self.flush()
        if self.lost is not None:
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, number)  # where the interpreter flushes what is left
            os.close(empty)
        return self.lost


def _occupy() -> None:
    """Give closed descriptors 0 to 2 to the null device, before another file gets one of them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _writer(stream: TextIO | None) -> Lossy:
    """A standard stream for writing, or what stands for one that is closed."""
    file = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 as long as the process
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(errors=ESCAPE)
    return Lossy(file, closed=stream is None)


def guarded(command: Callable[[], int]) -> int:
    """Run a command with streams that cannot end it.

    Returns:
        Its exit code; that of `FileError` if its result could not be written, but for a pipe that
        nobody reads any more, which is no fault.
    """
    _occupy()
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 as long as the process
    out, shown = _writer(sys.stdout), _writer(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, shown)
    code = command()
    lost = out.end(1)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        print(f"error: stdout: cannot be written: {lost.strerror}; the result is lost", file=shown)
        code = code or FileError.exit_code
    shown.end(2)
    return code
