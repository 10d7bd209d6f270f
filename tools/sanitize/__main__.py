"""The three C++ libraries under AddressSanitizer and UBSan: 10,000 drawn calls of each.

python -m tools.sanitize --calls 10000 --seed 0 --out results/sanitize.json

Each is compiled anew with `-fsanitize=address,undefined`, and called in a process of its own that
ends at the first fault. A call follows from seed and number; `calls.py` says what is drawn. Needs
GCC on Linux, with its libasan.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.outcome import kept, place
from tools.sanitize.calls import KINDS

ROOT = Path(__file__).resolve().parents[2]
# name of a library that has calls -> its source
SOURCES = {
    path.stem: path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("backends/torch/kernels/**/*.cpp"))
    if path.stem in KINDS
}
FLAGS = ["-std=c++17", "-O1", "-g", "-Wno-psabi", "-fno-math-errno", "-shared", "-fPIC"]
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
MOST = 3000  # characters of a report


def build(name: str, folder: Path, edit: Callable[[str], str] = str) -> tuple[Path, list[str]]:
    """A library with its checks, and the command that made it.

    Args:
        edit: a change of its source.
    """
    source, library = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(edit(Path(SOURCES[name]).read_text(encoding="utf-8")), encoding="utf-8")
    machine = ["-march=x86-64-v3"] if platform.machine().lower() in ("x86_64", "amd64") else []
    flags = [os.environ.get("CXX", "g++"), *FLAGS, *machine, *CHECKS]
    subprocess.run([*flags, str(source), "-o", str(library)], check=True)
    return library, flags


def fault(name: str, library: Path, seed: int, calls: int) -> str | None:
    """What the sanitizers say about a library, from the call that they stop at on; None if nothing.

    Raises:
        OSError: there is no libasan.
    """
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()
    if not Path(found).is_file():
        raise OSError(f"{compiler}: has no libasan.so; install GCC's sanitizers")
    command = [sys.executable, "-m", "tools.sanitize.calls", name, str(library)]
    done = subprocess.run(
        [*command, str(seed), str(calls)],
        env={**os.environ, **OPTIONS, "LD_PRELOAD": os.path.realpath(found)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    return f"exit {done.returncode}: {done.stderr.strip()[:MOST]}"


def main() -> int:
    """All libraries; 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tools.sanitize", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Write the result as JSON.")
    asked = parser.parse_args()
    began, libraries, bad = time.monotonic(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in SOURCES.items():
            library, command = build(name, Path(folder))
            report = fault(name, library, asked.seed, asked.calls)
            sets = {kind.__name__: asked.calls for kind in KINDS[name]}
            libraries[source] = {"argument sets": sets, "faults": int(report is not None)}
            if report is not None:
                bad[source] = report
                print(report, file=sys.stderr)
    version = subprocess.check_output([command[0], "--version"], text=True).splitlines()[0]
    result: dict[str, Any] = {
        "command": f"python -m tools.sanitize --calls {asked.calls} --seed {asked.seed}",
        "seed": asked.seed,
        "compiler": version,
        "flags": " ".join(command[1:]),
        "options": " ".join(f"{name}={value}" for name, value in OPTIONS.items()),
        "libraries": libraries,
        "bad": bad,
        "seconds": round(time.monotonic() - began, 1),
        **place(("fwt", "numpy")),
    }
    return kept(result, asked.out)


if __name__ == "__main__":
    raise SystemExit(main())
