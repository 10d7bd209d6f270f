"""The README and the guides: what they show is what happens, and what they name is there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from fwt.cli.main import app
from fwt.fwcore import errors
from tests.pages import CODES, text_of
from tools import guides
from tools.guides import ROOT, blocks

PAGES = guides.pages()
SHELL = ("", "sh", "console")
RUN = ("console", "python", "toml", "diff")
LINK = re.compile(r"]\(([^)#:\s]+)(?:#[\w-]+)?\)")

COPY = """
```toml
# settings.toml
size = 3
```
```python
assert open("settings.toml").read() == "size = 3\\n"
```
```console
$ fwt predict nowhere "c9??c"
old
$ echo $?
4
```
```console slow
$ fwt list
old
```
"""


def pictures_of(page: Path) -> set[str]:
    return {Path(to).name for to in LINK.findall(text_of(page)) if "figures/" in to}


def quick(page: Path) -> bool:
    return any(block.kind in RUN and not block.slow for block in blocks(text_of(page)))


@pytest.mark.parametrize("page", list(filter(quick, PAGES)), ids=str)
def test_what_a_page_shows_is_what_is_printed(page: Path) -> None:
    assert guides.stale(page) == []


def test_a_page_that_is_stale_is_told_and_rewritten(tmp_path: Path) -> None:
    copy, page = tmp_path / "copy", Path("page.md")
    guides.copy_checkout(copy)
    (copy / page).write_text(COPY, encoding="utf-8")
    printed = guides.played(page, True, copy)
    error = "error: nowhere: no such file or folder; expected a run or a checkpoint\n"
    assert printed == {0: [], 1: [], 2: [error, "4\n"]}
    assert guides.rewritten(COPY, printed) == COPY.replace("old\n", error, 1)

    (fault,) = guides.differences(page, COPY, printed)
    assert fault.startswith('page.md:10: $ fwt predict nowhere "c9??c"\nshown\nold\nnow\nerror:')


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("```diff\n--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-no\n+yes\n```\n", "patch"),
        ("```console\n$ rm -rf /\n```\n", "only fwt is run"),
    ],
)
def test_a_block_that_fails_ends_the_page(tmp_path: Path, fault: str, said: str) -> None:
    (tmp_path / "page.md").write_text(fault, encoding="utf-8")
    (tmp_path / "README.md").write_text("other\n", encoding="utf-8")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    with pytest.raises(RuntimeError, match=said):
        guides.played(Path("page.md"), True, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_command_that_is_not_run_has_options_that_are_there(page: Path) -> None:
    group = typer.main.get_command(app)
    for block in blocks(text_of(page)):
        lines = block.text.replace("\\\n", " ").splitlines()
        commands = [
            line.removeprefix("$ ") for line in lines if block.kind in ("", "sh", "console")
        ]
        for line in (line for line in commands if line.startswith("fwt ")):
            verb, *words = shlex.split(line, comments=True)[1:]
            assert verb in group.commands, line
            group.commands[verb].make_context(verb, words)


@pytest.mark.parametrize("page", [*PAGES, Path("CONTRIBUTING.md")], ids=str)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    prose = text_of(page)
    for block in blocks(prose):
        prose = prose.replace(block.text, "")
    missing = [to for to in LINK.findall(prose) if not (ROOT / page.parent / to).exists()]
    assert missing == []


def test_the_index_lists_every_guide() -> None:
    listed = LINK.findall(text_of(Path("docs/index.md")))
    there = {path.name for path in PAGES if path.parent.name == "docs"} - {"index.md"}
    assert sorted(to for to in listed if re.fullmatch(r"[\w-]+\.md", to)) == sorted(there)


def test_every_picture_of_a_guide_is_shown_and_drawn_by_a_command() -> None:
    results = pictures_of(Path("RESULTS.md"))
    shown = results.union(*map(pictures_of, PAGES))
    assert {path.name for path in (ROOT / guides.FIGURES).iterdir()} == shown
    commands = "".join(
        block.text for page in PAGES for block in blocks(text_of(page)) if block.kind == "console"
    )
    undrawn = [name for name in shown - results if f"{guides.FIGURES}/{name}" not in commands]
    assert undrawn == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = CODES.findall(text_of(Path("docs/exit-codes.md")))
    shown = {
        name: {int(code) for code in codes.split(",")}
        for codes, names in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    own = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind for kind in own if issubclass(kind, errors.FwtError)} - {errors.Interrupted}
    assert shown.pop("Interrupted") == {
        errors.Interrupted("", signal).exit_code for signal in (1, 2, 15)
    }
    assert shown == {kind.__name__: {kind.exit_code} for kind in raised}
    assert rows[0] == ("0", "")
