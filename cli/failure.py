"""How a command fails: one clear line on stderr and a documented exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from typer.exceptions import TyperException

from fwt.fwcore.errors import FileError, FwtError, Interrupted
from fwt.fwcore.paths import show

INTERRUPTED = 130
OUT_OF_MEMORY = 2  # the code of settings that cannot be, as of those refused before work begins
LONGEST, LAST = 1500, 400  # characters of a message; those of its end, which says what to do

_debug = False


def set_debug(value: bool) -> bool:
    """Remember whether tracebacks are wanted (the callback of `--debug`)."""
    global _debug
    _debug = _debug or value
    return value


def one_line(text: object) -> str:
    """Text as a message must be: one line that a terminal can show, not longer than `LONGEST`.

    What a file holds may be in it: what would steer a terminal is shown as an escape.
    """
    lines = (line.strip() for line in str(text).splitlines())
    line = " ".join(filter(None, lines))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - LAST]} ... {line[-LAST:]}"
    return show(line)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {one_line(message)}", file=file or sys.stderr)


def guarded(run: Callable[[], Any]) -> int:
    """Run a command that raises its errors, and return its exit code.

    A usage error and every error that `fwt` raises on purpose become one line on stderr, as does a
    file that the system refuses deep within a folder; the product's warnings one line each.
    Anything else is a fault of the product and keeps its traceback.
    """
    global _debug
    _debug = False
    before, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        return _finished(run())
    except FwtError as error:
        _show_trace()
        label = "" if isinstance(error, Interrupted) else "error: "
        print(f"{label}{one_line(error)}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        _show_trace()
        print(f"error: {one_line(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        return FileError.exit_code
    except MemoryError as error:
        _show_trace()
        print(f"error: memory: not enough for what was asked: {one_line(error)}", file=sys.stderr)
        return OUT_OF_MEMORY
    except TyperException as error:
        _show_trace()
        return _usage(error)
    except KeyboardInterrupt:
        return _finished(INTERRUPTED)
    finally:
        warnings.showwarning = before


def _show_trace() -> None:
    if _debug:
        traceback.print_exc()


def _finished(code: Any) -> int:
    """The exit code of a command that returned: None is success; typer returns 130 for Ctrl-C."""
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return int(code or 0)


def _usage(error: Any) -> int:
    """One line for a usage error of typer, which names the nearest option or command itself."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return int(error.exit_code)  # `fwt` alone: typer has shown the help already
    where = "fwt" if error.ctx is None else error.ctx.command_path
    text = one_line(error.format_message()).rstrip(".")
    print(f"error: {text[:1].lower()}{text[1:]}; see {where} --help", file=sys.stderr)
    return int(error.exit_code)
