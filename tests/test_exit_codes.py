"""Every row of the table of exit codes, provoked by a real command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fwt.fwcore.storage import checkpoint
from tests.cli_tools import ROOT, TINY, Done, environment, free_ports, python, words_of
from tests.conftest import need
from tests.pages import CODES, text_of
from tests.signal_tools import DRIVER, RUN, UPDATE, hit

STRINGS = "checkpoints/retrieval-fast-weights-r20"
TRAIN = ("train", *TINY, "--backend", "mlx", "--quiet", "--out")
STOPPED = "train: stopped by signal"


def documented() -> list[int]:
    """The codes of the page, row by row."""
    rows = CODES.findall(text_of(Path("docs/exit-codes.md")))
    return [int(code) for codes, _ in rows for code in codes.split(",")]


def fwt(*words: object) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "fwt", *words_of(words)],
        cwd=ROOT,
        env=environment(MLX_DISABLE_COMPILE="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def signalled(name: str, run: Path) -> Done:
    """A run that gets a signal in its second update."""
    return python(hit(UPDATE, 2, name), *TRAIN, run, MLX_DISABLE_COMPILE="1")


def lost(run: Path) -> Done:
    """The first of two processes of which the second is killed.

    They are started as `mlx.launch` starts them, which would end the first one by a signal.
    """
    script, hosts = run.with_suffix(".py"), run.with_suffix(".json")
    script.write_text(DRIVER.format(number="1", count=3, signal="SIGKILL"))
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    words = words_of(
        [sys.executable, script, "train", *RUN, "--backend", "mlx", "--out", run, "-q"]
    )
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    more = {"MLX_HOSTFILE": str(hosts), "PYTHONPATH": path, "MLX_DISABLE_COMPILE": "1"}
    first, second = (
        subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment(MLX_RANK=str(rank), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    out, err = first.communicate(timeout=120)
    second.communicate(timeout=120)
    # MLX speaks too, and one that has to wait a while for the other
    mine = [line for line in err.splitlines() if not line.startswith(("[ring]", "waiting"))]
    return Done(first.returncode, out, "\n".join(mine))


def overflowing(folder: Path) -> Path:
    """A checkpoint on which float32 and float64 do not agree."""
    found = checkpoint.read(ROOT / STRINGS)
    weights = {name: array * np.float32(1e30) for name, array in found.params.items()}
    checkpoint.write(folder, found.spec, weights, None, found.progress)
    return folder


# code -> what provokes it in an empty folder, and what its line begins with; None has none
PROVOKED: dict[int, tuple[Callable[[Path], Done], str | None]] = {
    0: (lambda _: fwt("predict", STRINGS, "c9??c", "--backend", "numpy"), None),
    1: (
        lambda run: fwt("verify", overflowing(run), "--backends", "numpy,mlx"),
        "error: verify: out of tolerance: ",
    ),
    2: (lambda _: fwt("data", "retreival"), "error: task: unknown task 'retreival'"),
    3: (
        lambda _: fwt("predict", STRINGS, "c9??c", "--backend", "numpy", "--device", "cuda"),
        "error: backend numpy: no device 'cuda'",
    ),
    4: (lambda _: fwt("predict", "nowhere", "c9??c"), "error: nowhere: no such file or folder"),
    5: (lambda run: fwt(*TRAIN, run, "--lr", "1e30"), "error: train: expected finite numbers"),
    6: (lost, "error: train: expected to hear of all 2 processes"),
    129: (lambda run: signalled("SIGHUP", run), f"{STOPPED} 1 at step 2 of 6; saved"),
    130: (lambda run: signalled("SIGINT", run), f"{STOPPED} 2 at step 2 of 6; saved"),
    143: (lambda run: signalled("SIGTERM", run), f"{STOPPED} 15 at step 2 of 6; saved"),
}


def test_every_row_is_provoked() -> None:
    assert documented() == list(PROVOKED)


@pytest.mark.parametrize("code", documented())
def test_a_code_comes_with_what_is_documented(code: int, tmp_path: Path) -> None:
    need("mlx")
    provoke, begins = PROVOKED[code]
    done = provoke(tmp_path / "run")
    assert done.code == code, done
    lines = done.err.splitlines()
    if begins is None:
        assert lines == []
        assert done.out != ""
    else:
        (line,) = lines
        assert line.startswith(begins)
