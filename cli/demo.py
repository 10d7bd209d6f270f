"""`fwt demo`: a page in the browser that shows networks step by step."""

from __future__ import annotations

import socket
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fwt import shipped
from fwt.cli import options

if TYPE_CHECKING:
    from fwt.backends.contract import Compiled
    from fwt.demo.steps import Subject

PAUSE = 0.1  # seconds between two looks for a signal


def demo(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=options.checkpoint,
            help="Runs, checkpoints or shipped names; default: one of these for each task.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Step through time in the browser: type a string, draw a digit, switch the backend.

    The page shows the fast matrix A, the attention to the past, and what the network would answer
    after each step. It is served until Ctrl-C (exit code 130), to this machine alone unless --host
    says otherwise, and fetches nothing from elsewhere.
    Example: fwt demo checkpoints/retrieval-fast-weights-r20 --backend numpy
    """
    from fwt import backends
    from fwt.demo.process import past_proxies, surroundings
    from fwt.fwcore.errors import BackendError, Interrupted
    from fwt.signals import StopFlag

    _check_free(host, port)
    first = backends.named(backend)
    subjects = [_subject(path, device) for path in checkpoints or _shipped()]
    names = [name for name in backends.BACKENDS if backends.installed(name) or name == first]
    with StopFlag() as stop, surroundings():
        with past_proxies():
            try:
                from fwt.demo import page
            except ImportError as error:
                raise BackendError(f"demo: {error}; pip install 'fwt[demo]'") from error
            served = page.serve(subjects, names, first, host, port)
        print(f"fwt demo: http://{host}:{port}  (Ctrl-C ends it)", flush=True)
        while stop.read() is None:
            time.sleep(PAUSE)
        served.close(verbose=False)
        raise Interrupted("demo: stopped", stop.read() or 0)


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be had before anything is read. Raises ConfigError."""
    from fwt.fwcore.errors import ConfigError

    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ConfigError(
            f"--port: expected an address of this machine that is free, got {host}:{port} "
            f"({error.strerror}); name another with --host and --port"
        ) from error


def _shipped() -> list[Path]:
    """Of the networks that ship with fwt, the smallest with fast weights of each task.

    Raises:
        ConfigError: there are none here.
        CheckpointError: their list is damaged.
    """
    from fwt.fwcore.errors import ConfigError

    smallest: dict[str, tuple[int, str]] = {}
    for name, known in shipped.index().items():
        if known["model"] == "fast-weights":
            found = (known["size"], name)
            smallest[known["task"]] = min(found, smallest.get(known["task"], found))
    if not smallest:
        raise ConfigError(
            f"demo: expected the networks that ship with fwt in {shipped.folder()}, got none; name "
            "a run: fwt demo RUN"
        )
    return [shipped.folder() / name for _, name in smallest.values()]


def _subject(path: Path, device: str) -> Subject:
    """A checkpoint, ready to be shown; each backend compiles it once, when it is first chosen."""
    from fwt import tasks
    from fwt.demo.steps import REFERENCE, Subject
    from fwt.fwcore.storage.runs import find_checkpoint
    from fwt.opening import on_backend
    from fwt.tasks import retrieval

    found = find_checkpoint(path)
    task = tasks.parse(found.spec.task, str(path))
    reader = tasks.reader(task)

    @cache
    def on(name: str) -> Compiled:
        return on_backend(name, found, "cpu" if name == REFERENCE else device, "auto")

    pairs = task.pairs if isinstance(task, retrieval.Spec) else 0
    return Subject(path.name, found.spec.model, reader, on, pairs)
