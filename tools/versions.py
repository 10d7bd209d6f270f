"""The tests with the lowest or the newest versions that `pyproject.toml` allows of what fwt names.

python -m tools.versions lowest
python -m tools.versions newest tests/test_gradients.py -k torch

The environment and a copy of the tree lie in a temporary folder and are removed at the end; they
take some 8 GB with a PyTorch that brings CUDA. What comes after the first word goes to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = ("mlx", "torch", "numpy", "safetensors", "typer", "pydantic", "distributed", "optuna")


def copied(to: Path) -> None:
    """The tree as git would take it: an installation builds in place, which must not be here."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # one that was removed is still known
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((ROOT / name).read_bytes())


def installed(folder: Path, tree: Path, resolution: str) -> Path:
    """A fresh environment with fwt and all that its tests need; gives back its Python."""
    uv, python = [sys.executable, "-m", "uv"], folder / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    needed = ["--resolution", resolution, "--requirements", "pyproject.toml", "--extra", "dev"]
    subprocess.run([*install, *needed], cwd=tree, check=True)
    subprocess.run([*install, "--no-deps", "--editable", "."], cwd=tree, check=True)
    return python


def main(given: list[str]) -> int:
    """Install, say what, and run pytest; its exit code, or 2 for a word that is none."""
    if not given or given[0] not in RESOLUTION:
        print(f"expected {' or '.join(RESOLUTION)}, got {given[:1]}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="fwt-versions-") as name:
        tree, folder = Path(name) / "tree", Path(name) / "venv"
        copied(tree)
        python = installed(folder, tree, RESOLUTION[given[0]])
        code = "import sys; from importlib.metadata import version as of\n"
        code += "print(*(f'{name} {of(name)}' for name in sys.argv[1:]))"
        subprocess.run([python, "-c", code, *SHOWN], check=True)
        places = [str(python.parent), os.environ["PATH"]]
        needed = {"FWT_REQUIRE_BACKENDS": "torch,mlx", "FWT_OFFLINE": "1"}
        words = [python, "-m", "pytest", "-n", "logical", "--dist", "loadfile", *given[1:]]
        env = {**os.environ, **needed, "PATH": os.pathsep.join(places)}
        return subprocess.run(words, cwd=tree, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
