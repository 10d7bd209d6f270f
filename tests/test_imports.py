"""What imports what: frameworks only where they belong, and nothing heavy before it is needed."""

from __future__ import annotations

import importlib.metadata

import pytest

from fwt.cli.main import app
from tests.blocked import RUN, blocked
from tests.cli_tools import ROOT, TINY, Done, check_refusal, good, python
from tests.conftest import need
from tests.sources import ARROWS, FILES, imports_of

FRAMEWORKS = {"torch", "mlx", "torchvision"}
# what imports a framework, and which; torchvision makes the datasets that it knows
NATIVE = {
    "backends/torch": {"torch"},
    "backends/mlx": {"mlx"},
    "fwt/bench": {"torch", "mlx"},
    "tasks/datasets.py": {"torchvision"},
}

IMPORT_ALL = "import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"


def rooms_of(names: set[str]) -> set[str]:
    """The rooms of the modules of fwt among `names`."""
    below = {name.split(".")[1] for name in names if name.startswith("fwt.")}
    return {name if name in ARROWS else "fwt" for name in below}


def test_arrows_between_the_rooms_run_one_way():
    assert len(FILES) > 200
    faults = {}
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        wrong = rooms_of(imports_of(path)) - ARROWS[room] - {room}
        if wrong and path.name != "__main__.py":  # `python -m fwt` is the command line
            faults[str(path.relative_to(ROOT))] = wrong
    assert faults == {}


def test_frameworks_are_imported_where_they_belong():
    faults = {}
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        allowed = set().union(*(own for at, own in NATIVE.items() if name.startswith(at)))
        wrong = {found.split(".")[0] for found in imports_of(path)} & FRAMEWORKS - allowed
        if wrong:
            faults[name] = wrong
    assert faults == {}


def test_no_file_imports_by_the_name_of_a_folder():
    """That would be a user's module of that name, or a second copy of ours."""
    folders = {*ARROWS, "bench", "benchmarks", "demo", "figures", "reports", "sweeps"} - {"fwt"}
    files = [*FILES, *(ROOT / "tests").glob("*.py"), *(ROOT / "tools").rglob("*.py")]
    faults = {str(p): {n.split(".")[0] for n in imports_of(p)} & folders for p in files}
    assert {path: names for path, names in faults.items() if names} == {}


def test_no_test_imports_another_test():
    """What tests share stands in modules that are none."""
    faults = {}
    for path in (ROOT / "tests").rglob("*.py"):
        wrong = {name for name in imports_of(path) if name.startswith("tests.test_")}
        if wrong:
            faults[path.name] = wrong
    assert faults == {}


@pytest.mark.parametrize("room", sorted(set(ARROWS) - {"fwt"}))
def test_a_folder_refuses_to_be_imported_by_its_own_name(room):
    done = python(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport {room}")
    assert done.code == 1
    assert f"ImportError: {room}: its import name is fwt.{room}" in done.err


def test_the_import_walk_sees_every_way_to_import(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "import torch.nn\ndef f():\n from mlx import nn\n import importlib\n"
        " importlib.import_module('fwt.tasks.base')\n from fwt import backends\n"
    )
    names = imports_of(file)
    assert names == {"torch.nn", "mlx.nn", "importlib", "fwt.tasks.base", "fwt.backends"}
    assert rooms_of(names) == {"tasks", "backends"}


def test_everything_but_the_backends_imports_without_a_framework():
    skipped = ("fwt.backends.torch", "fwt.backends.mlx", "fwt.bench.")
    paths = [path.relative_to(ROOT).with_suffix("") for path in FILES if path.stem[:2] != "__"]
    names = [f"fwt.{'.'.join(path.parts).removeprefix('fwt.')}" for path in paths]
    names = [name for name in names if not name.startswith(skipped)]
    assert len(names) > 100
    done = python(blocked("torch", "mlx", "torchvision") + IMPORT_ALL.format(names=names))
    assert done.code == 0, done.err


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
        "import sys\nfrom fwt.cli.main import run\ncode = run(sys.argv[1:])\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])\nsys.exit(code)"
    )
    done = python(blocked("torch", "mlx") + code, *arguments)
    assert done.code == 0, done.err
    assert "HEAVY []" in done.out


def test_the_command_runs_as_a_module_and_is_installed():
    done = python("import runpy; runpy.run_module('fwt.cli.main', run_name='__main__')", "--help")
    assert done.code == 0
    assert len(app.registered_commands) > 15
    for verb in app.registered_commands:
        assert f" {verb.name} " in done.out
    scripts = importlib.metadata.entry_points(group="console_scripts", name="fwt")
    assert [script.value for script in scripts] == ["fwt.cli.main:main"]


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
