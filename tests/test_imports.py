"""What imports what: frameworks only where they belong, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

from tests.cli_tools import ROOT, TINY, Done, check_refusal, good, python
from tests.conftest import need

PACKAGES = ("fwcore", "tasks", "cli", "sweeps", "reproduce", "figures", "reports", "demo")
# package -> what no file of it may import
FORBIDDEN = {
    "fwcore": {"torch", "mlx", "torchvision", "tasks", "cli", "backends", "benchmarks", "sweeps"},
    "tasks": {"torch", "mlx", "backends", "cli", "benchmarks", "sweeps"},
    "cli": {"torch", "mlx", "torchvision"},
    "sweeps": {"torch", "mlx", "torchvision", "backends", "cli", "benchmarks"},
    "figures": {"torch", "mlx", "torchvision", "tasks", "backends", "cli", "benchmarks", "sweeps"},
    "demo": {"torch", "mlx", "torchvision", "backends", "cli", "benchmarks", "sweeps"},
    "reports": {"torch", "mlx", "torchvision", "backends", "cli", "benchmarks"},
    "reproduce": {"torch", "mlx", "torchvision", "backends", "cli", "benchmarks"},
}

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is blocked by the test")

sys.meta_path.insert(0, Blocker())
"""
RUN = "from cli.main import run\nsys.exit(run(sys.argv[1:]))\n"
IMPORT_ALL = """
import importlib, pkgutil
for name in {packages!r}:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{{name}}."):
        importlib.import_module(found.name)
        print(found.name)
"""


def blocked(*names: str) -> str:
    return BLOCK.format(names=names)


def imports_of(path: Path) -> set[str]:
    """The top-level names that a file imports, also lazily and by `importlib`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_what_its_package_may_not(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) >= 5
    faults = {str(path): imports_of(path) & FORBIDDEN[package] for path in files}
    assert {path: names for path, names in faults.items() if names} == {}


def test_the_import_walk_sees_every_way_to_import(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "import torch.nn\ndef f():\n from mlx import nn\n import importlib\n"
        " importlib.import_module('tasks.base')\n"
    )
    assert imports_of(file) == {"torch", "mlx", "importlib", "tasks"}


def test_everything_but_the_backends_imports_without_a_framework():
    code = blocked("torch", "mlx", "torchvision") + IMPORT_ALL.format(packages=PACKAGES)
    done = python(code)
    assert done.code == 0, done.err
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert expected <= set(done.out.split())


def test_the_blocker_of_these_tests_blocks():
    done = python(blocked("torch") + "import torch")
    assert done.code == 1
    assert "torch is blocked by the test" in done.err


HEAVY = ("torch", "mlx", "numpy", "safetensors", "psutil", "pydantic")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (("--help",), HEAVY),
        (("--version",), HEAVY),
        (("train", "--help"), HEAVY[:-1]),  # typer itself describes options with pydantic
    ],
)
def test_help_and_version_import_nothing_heavy(arguments, heavy):
    code = (
        "import sys\nfrom cli.main import run\ncode = run(sys.argv[1:])\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])\nsys.exit(code)"
    )
    done = python(blocked("torch", "mlx") + code, *arguments)
    assert done.code == 0, done.err
    assert "HEAVY []" in done.out


def test_the_command_runs_as_a_module_and_is_installed():
    done = python("import runpy; runpy.run_module('cli.main', run_name='__main__')", "--help")
    assert done.code == 0
    for verb in (
        "train",
        "eval",
        "verify",
        "convert",
        "list",
        "data",
        "doctor",
        "bench",
        "predict",
        "inspect",
        "plot",
        "report",
        "gradients",
        "associator",
        "sweep",
        "reproduce",
        "demo",
    ):
        assert f" {verb} " in done.out
    scripts = importlib.metadata.entry_points(group="console_scripts", name="fwt")
    assert [script.value for script in scripts] == ["cli.main:main"]


@pytest.mark.parametrize(("gone", "left"), [("mlx", "torch"), ("torch", "mlx")])
def test_one_framework_is_enough_to_train(gone, left, tmp_path):
    need(left)
    arguments = ("train", *TINY, "--stop-after", "2", "--out", tmp_path / "run", "--json")
    done = python(blocked(gone) + RUN, *arguments)  # --backend auto takes what is there
    assert done.code == 0, done.err
    assert done.json["backend"] == left
    assert done.json["step"] == 2
    assert good("eval", tmp_path / "run", "--backend", "numpy", "--json").json["step"] == 2


def missing(gone: str, *arguments: object) -> Done:
    done = python(blocked(gone, "torchvision") + RUN, *arguments)
    assert done.code == 3, done
    return done


@pytest.mark.parametrize(("gone", "cure"), [("mlx", "pip install mlx"), ("torch", "pip install")])
def test_a_missing_framework_is_one_line_that_says_what_to_install(gone, cure, tmp_path):
    out = tmp_path / "run"
    done = missing(gone, "train", *TINY, "--backend", gone, "--out", out)
    check_refusal(done, [f"backend {gone}", "not installed", cure])
    assert not out.exists()


def test_a_sweep_without_its_packages_is_one_line_and_the_rest_works(tmp_path):
    code = blocked("distributed", "dask", "optuna", "sqlalchemy") + RUN
    done = python(code, "sweep", tmp_path / "none.toml")
    assert done.code == 3, done
    check_refusal(done, ["distributed and optuna", "not installed", "pip install 'fwt[sweep]'"])
    assert python(code, "train", "--task", "retrieval", "--dry-run", "--seeds", "0,1").code == 0


def test_a_framework_that_does_not_start_is_one_line(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise ImportError('libtorch.so: no such file\\nsecond line')\n"
    )
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + RUN
    done = python(code, "train", *TINY, "--backend", "torch", "--out", tmp_path / "run")
    assert done.code == 3, done
    check_refusal(done, ["backend torch", "libtorch.so: no such file", "pip install torch"])


def test_doctor_says_what_is_missing_and_goes_on():
    done = python(blocked("mlx", "torch") + RUN, "doctor", "--json")
    assert done.code == 0, done.err
    backends = done.json["backends"]
    assert backends["numpy"]["ready"]
    for name in ("mlx", "torch"):
        assert not backends[name]["ready"]
        assert f"pip install {name}" in backends[name]["why"]
