"""Paths that a person gives: expanded once, refused in one line, printed for any stream."""

from __future__ import annotations

import html
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer

from fwt.cli import options
from fwt.cli.main import app
from fwt.fwcore import paths
from fwt.fwcore.errors import ConfigError, FileError
from tests.cli_tools import ROOT, TINY, clean_environment, environment, good, refused
from tests.conftest import need

CAFE = os.fsdecode(b"caf\xe9")  # Latin-1, which is no UTF-8
LONG = "a" * 300
CHECKPOINT = ROOT / "checkpoints" / "retrieval-fast-weights-r20"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    """A home folder, and a working directory beside it."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


# --- expansion ------------------------------------------------------------------------------


def test_a_home_is_expanded_once(home):
    assert paths.expand("~/runs/a") == home / "runs" / "a"
    assert paths.expand("~root/x") == Path(os.path.expanduser("~root")) / "x"
    assert paths.expand("./~/x") == Path("~/x")  # a folder of that name, as a shell has it
    assert paths.expand("a/~") == Path("a/~")


def test_a_user_who_is_not_there_is_refused_unless_a_file_has_the_name(home):
    with pytest.raises(
        FileError, match=r"no user of the name 'nobody-here' here; write \./~nobody"
    ):
        paths.expand("~nobody-here/x")
    Path("~nobody-here").touch()
    assert paths.expand("~nobody-here") == Path("~nobody-here")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", LONG, f"{LONG}/x", "/".join(["a"] * 3000)])
def test_what_can_be_no_path_is_one_error(text):
    with pytest.raises(FileError, match=r"is no path|cannot be looked for: File name too long"):
        paths.expand(text)


def test_an_empty_path_is_not_the_working_directory():
    with pytest.raises(ConfigError, match="expected a path, got ''"):
        paths.expand("")


def test_a_loop_of_links_is_one_error(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match="symbolic links"):
        paths.expand(tmp_path / "loop")


# --- every verb -----------------------------------------------------------------------------


def path_parameters():
    """(verb, parameter) of all that are annotated as a path."""
    for verb, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            kind = parameter.type_descriptor.annotation
            if kind is Path or Path in get_args(kind):
                yield verb, parameter


def test_every_option_and_argument_that_is_a_path_goes_through_one_place():
    found = list(path_parameters())
    assert len(found) >= 30
    free = [
        (verb, parameter.name)
        for verb, parameter in found
        if parameter.type_descriptor.parameter_info.parser not in (options.path, options.checkpoint)
    ]
    assert free == []


# words after which each verb is given the path
VERBS = (
    ("eval",), ("predict",), ("verify",), ("inspect", "--example", "c9??c"), ("plot",), ("report",),
    ("gradients",), ("convert", "--to", "torch", "x"), ("demo",), ("sweep",), ("train", "--resume"),
    ("train", *TINY, "--config"), ("train", *TINY, "--out"), ("train", *TINY, "--runs-dir"),
    ("data", "mnist-glimpse", "--data-dir"), ("associator", "--figure"), ("bench", "--out"),
    ("reproduce", "--out"), ("plot", str(CHECKPOINT), "--out"), ("report", str(CHECKPOINT), "-o"),
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=["-".join(words[:2]) for words in VERBS])
def test_every_verb_refuses_a_path_in_one_line(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    refused(4, [LONG[:50], "File name too long"], *verb, LONG)
    refused(4, ["loop/x", "symbolic links"], *verb, "loop/x")
    done = refused(2, ["expected a path, got ''"], *verb, "")
    assert "invalid value for" in done.err
    assert list(tmp_path.iterdir()) == [tmp_path / "loop"]


FORBIDDEN = """
import os, sys
sys.path.insert(0, {root!r})
import fwt.cli.main, fwt.opening, fwt.cli.predict, fwt.cli.plot, fwt.execute.alone
import fwt.lists, fwt.fwcore.storage.runs, fwt.fwcore.storage.foreign
import fwt.plots.curves, fwt.tasks.retrieval
os.setgid(65534)
os.setuid(65534)
for words in {words!r}:
    print(fwt.cli.main.run(words))
"""


def test_a_path_below_a_folder_that_may_not_be_looked_into(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs the rights to become another user")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    shut = tmp_path / "shut"
    (shut / "run").mkdir(parents=True)
    shut.chmod(0o000)
    half = tmp_path / "half"  # the run may be looked into, a folder within may not
    (half / "checkpoints").mkdir(parents=True)
    (half / "last").write_text("step-00000001\n")
    (half / "checkpoints").chmod(0o000)
    verbs = (["eval"], ["plot"], ["predict"], ["train", "--resume"], ["train", *TINY, "--out"])
    words = [[*verb, str(path)] for verb in verbs for path in (shut, shut / "run")]
    words.append(["eval", str(half)])
    code = FORBIDDEN.format(root=str(ROOT), words=words)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["4"] * len(words), done
    lines = done.stderr.splitlines()
    assert len(lines) == len(words), done.stderr
    assert all(line.startswith("error: ") and "Permission denied" in line for line in lines)


def test_a_home_in_an_option_and_in_a_variable(home, monkeypatch):
    need("torch")
    few = ("--backend", "torch", "--stop-after", 1)
    assert good("train", *TINY, *few, "--out=~/x", "--json").json["run"] == str(home / "x")
    monkeypatch.setenv("FWT_RUNS_DIR", "~/runs")
    run = good("train", *TINY, *few, "--json").json["run"]
    assert Path(run).is_relative_to(home / "runs")
    assert list(Path.cwd().iterdir()) == []


def test_the_data_of_a_sweep_may_lie_in_a_home(home):
    """Its runs are given absolute paths, so it must be expanded before."""
    sweep = 'name = "s"\ntask = "mnist-glimpse"\nbackend = "numpy"\n[axes]\nseed = "0-1"\n'
    (home / "s.toml").write_text(sweep + '[base]\n"task.dataset" = "mnist"\n')
    words = (str(home / "em"), "expected a folder that can be read")
    refused(4, words, "sweep", "~/s.toml", "--data-dir", "~/em", "--dry-run")


def test_the_database_of_a_search_may_lie_in_a_home_or_under_an_odd_name(home):
    study = pytest.importorskip("fwt.sweep.study")
    odd = home / "50% {done}?"
    odd.mkdir()
    for where in ("sqlite:///~/a.db", odd / "a.db"):
        study.connect(where).engine.dispose()
    assert sorted(home.rglob("*.db")) == [odd / "a.db", home / "a.db"]
    assert list(Path.cwd().iterdir()) == []


# --- printing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["run", "a b", "a  b", "it's", "$HOME", "a\nb", CAFE, "é", "tab\there", "back\\s\x1b[31m"],
)
def test_a_quoted_path_is_the_word_a_shell_makes_of_it(name):
    words = ["bash", "-c", f"printf %s {paths.quote(name)}"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == os.fsencode(name)
    assert paths.quote(name).isprintable()
    assert paths.show(name).isprintable()
    paths.show(name).encode("utf-8")


def test_the_commands_that_are_printed_can_be_pasted(tmp_path):
    need("torch")
    train, run = ("train", *TINY, "--backend", "torch"), tmp_path / "it's  mine"
    done = good(*train, "--stop-after", 1, "--out", run)
    (line,) = [line for line in done.out.splitlines() if line.startswith("go on ")]
    assert shlex.split(line)[2:] == ["fwt", "train", "--resume", str(run)]
    done = refused(2, ["exists; go on with: "], *train, "--out", run)
    command = done.err.split("go on with: ")[1].split(", or choose")[0]
    assert shlex.split(command) == ["fwt", "train", "--resume", str(run)]
    (line,) = [each for each in good("train", "--resume", run).out.splitlines() if "look" in each]
    assert shlex.split(line)[1:4] == ["fwt", "eval", str(run)]


def test_a_name_that_is_no_utf8_gets_into_json_and_pages(tmp_path, monkeypatch):
    need("torch")
    run, page = tmp_path / CAFE, tmp_path / f"{CAFE}.html"
    monkeypatch.setattr(sys, "argv", ["fwt", "train", "--out", str(run)])  # as run.json has it
    done = good("train", *TINY, "--backend", "torch", "--out", run, "--json")
    assert done.json["run"] == str(run)
    done.out.encode("ascii")
    assert str(run) in good("eval", run, "--backend", "numpy", "--json").json["checkpoint"]
    done = good("report", run, "-o", page)
    done.out.encode("utf-8")
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "caf\\udce9" in text  # the run
    assert f"--out $'{tmp_path}/caf\\351'" in text  # the command that made it
    for words in (("train", "--resume", run), ("plot", run, "-o", tmp_path / f"{CAFE}.svg")):
        good(*words).out.encode("utf-8")
    good("convert", run, tmp_path / f"{CAFE}-torch", "--to", "torch").out.encode("utf-8")


# --- what a file begins with ----------------------------------------------------------------


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_a_byte_order_mark_and_the_case_of_a_suffix_change_nothing(mark, tmp_path):
    toml, wanted = b"[train]\nlr = 0.25\n", {"train": {"lr": 0.25}}
    contents = {"c.toml": toml, "c.TOML": toml, "c.json": b'{"train": {"lr": 0.25}}'}
    contents["c.JSON"] = contents["c.json"]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(mark + content)
        spec = good("train", *TINY[:2], "--config", tmp_path / name, "--dry-run").json
        assert spec["train"]["lr"] == wanted["train"]["lr"], name
    (tmp_path / "strings").write_bytes(mark + b"c9??c\n")
    done = good("predict", CHECKPOINT, "--file", tmp_path / "strings", "--json")
    assert done.json["predictions"][0]["answer"] == "9"


def test_utf16_is_named(tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nlr = 1\n", encoding="utf-16")
    words = ["c.toml", "begins like UTF-16; save it as UTF-8"]
    refused(4, words, "train", *TINY[:2], "--config", tmp_path / "c.toml", "--dry-run")
