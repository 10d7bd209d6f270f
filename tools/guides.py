"""The guides, run: their files written, their commands answered, in a copy of the checkout.

    python -m tools.guides            run all, write what is printed now and the pictures
    python -m tools.guides --check    run what is quick, say what is stale, write nothing

What happens to a fenced block of `README.md` and `docs/*.md` is decided by its first word:

    console        `$ fwt ...` is run and what it prints held against the lines below; of a command
                   that fails, the error line too. `$ echo $?` is the exit code of the last one
    python, toml   with the first line `# PATH`: a file of the copy
    python         without: run in the process of its page
    diff           a change of files of the copy

A second word `slow` leaves a block to the run that writes. All other blocks are not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
FIGURES = Path("docs/figures")
NAMED = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")
LEFT = shutil.ignore_patterns(
    ".*", "runs", "build", "dist", "__pycache__", "*.egg-info", "node_modules"
)
# nothing is downloaded; the CPU is what the printed numbers are of
SETTINGS = {"FWT_OFFLINE": "1", "FWT_DEVICE": "cpu", "COLUMNS": "100", "NO_COLOR": "1"}
LIMIT = 900  # seconds a page


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: the first word after the fence.
        slow: whether the second is `slow`.
        first: number of its first line of text, from 0; `last`: one past its last.
        text: what is between the fences.
    """

    kind: str
    slow: bool
    first: int
    last: int
    text: str


def pages() -> list[Path]:
    """The README and all guides, relative to the checkout."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path.relative_to(ROOT) for path in found]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page in their order."""
    found = []
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.map is not None:
            kind, *marks = token.info.split() or [""]
            first, end = token.map
            found.append(Block(kind, "slow" in marks, first + 1, end - 1, token.content))
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command of a console block as it is written, and the text below it."""
    found: list[tuple[str, str]] = []
    going_on = False
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line, ""))
        elif not found:
            raise ValueError(f"a console block begins with {line!r}, expected '$ COMMAND'")
        elif going_on:
            found[-1] = (found[-1][0] + line, "")
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
        going_on = line.endswith("\\\n") and not found[-1][1]
    return found


def copy_checkout(target: Path) -> None:
    """A copy of all that the guides need, in a folder that is not there yet."""
    shutil.copytree(ROOT, target, symlinks=True, ignore=LEFT)


# --- in the copy ----------------------------------------------------------------------------


class Player:
    """One page, block by block, in the copy that is the working directory."""

    def __init__(self) -> None:
        self._code = 0

    def play(self, block: Block) -> list[str]:
        """Do what a block says; of a console block, what each command printed."""
        named = NAMED.match(block.text)
        if block.kind in ("python", "toml") and named is not None:
            path = Path(named[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text[named.end() :], encoding="utf-8")
        elif block.kind == "python":
            exec(compile(block.text, "guide", "exec", optimize=0), {"__name__": "guide"})  # noqa: S102
        elif block.kind == "diff":
            apart = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path.cwd().parent)}
            change = ["git", "apply", "--whitespace=nowarn", "-"]
            subprocess.run(change, input=block.text, text=True, check=True, env=apart)
        elif block.kind == "console":
            return [self._answer(written) for written, _ in commands(block)]
        return []

    def _answer(self, written: str) -> str:
        """What a command prints."""
        words = shlex.split(written.removeprefix("$ ").replace("\\\n", " "))
        if words == ["echo", "$?"]:
            return f"{self._code}\n"
        if words[0] != "fwt":
            raise ValueError(f"{written!r}: only fwt is run in a console block")
        from fwt.cli.main import run

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self._code = run(words[1:])
        shown = out.getvalue() + (err.getvalue() if self._code else "")
        return "".join(f"{line.rstrip()}\n" for line in shown.splitlines())


def play_here(page: Path, quick: bool, answers: Path) -> None:
    """Play a page in the working directory; what its blocks printed goes to a file, as JSON."""
    player, found = Player(), {}
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
        if not (quick and block.slow):
            found[number] = player.play(block)
    answers.write_text(json.dumps(found), encoding="utf-8")


# --- in the checkout ------------------------------------------------------------------------


def played(page: Path, quick: bool, copy: Path) -> dict[int, list[str]]:
    """Block number -> what each of its commands printed, of a page in a copy of the checkout.

    Raises:
        RuntimeError: something on the page failed, with what it said.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWT_")}
    answers = copy / ".answers.json"
    words = [sys.executable, "-m", "tools.guides", "--play", str(page), "--answers", str(answers)]
    done = subprocess.run(
        words + (["--check"] if quick else []),
        cwd=copy,
        env={**kept, **SETTINGS, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode:
        raise RuntimeError(f"{page}: {done.stdout}{done.stderr}")
    found = json.loads(answers.read_text(encoding="utf-8"))
    return {int(number): printed for number, printed in found.items()}


def rewritten(text: str, printed: dict[int, list[str]]) -> str:
    """A page with what its commands print now."""
    lines = text.splitlines(keepends=True)
    for number, block in reversed(list(enumerate(blocks(text)))):
        if block.kind == "console" and number in printed:
            written = [command for command, _ in commands(block)]
            pairs = zip(written, printed[number], strict=True)
            lines[block.first : block.last] = ["".join(f"{line}{out}" for line, out in pairs)]
    return "".join(lines)


def stale(page: Path, quick: bool = True) -> list[str]:
    """What a page says its commands print and they do not, one text each."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fwt"
        copy_checkout(copy)
        text = (copy / page).read_text(encoding="utf-8")
        return differences(page, text, played(page, quick, copy))


def differences(page: Path, text: str, printed: dict[int, list[str]]) -> list[str]:
    """Each command of a page's text that does not print what stands below it."""
    faults = []
    found = blocks(text)
    for number, outputs in printed.items():
        if found[number].kind != "console":
            continue
        for (command, shown), now in zip(commands(found[number]), outputs, strict=True):
            if shown != now:
                faults.append(
                    f"{page}:{found[number].first + 1}: {command}shown\n{shown}now\n{now}"
                    "run `make figures`"
                )
    return faults


def refresh(page: Path) -> None:
    """Run all of a page, and write what it prints and draws now.

    Raises:
        RuntimeError: the page was changed meanwhile; nothing was written.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fwt"
        copy_checkout(copy)
        text = (copy / page).read_text(encoding="utf-8")
        printed = played(page, False, copy)
        path = ROOT / page
        if path.read_text(encoding="utf-8") != text:
            raise RuntimeError(f"{page}: changed while its commands ran; run it again")
        path.write_text(rewritten(text, printed), encoding="utf-8")
        for drawn in sorted((copy / FIGURES).iterdir()):
            kept = ROOT / FIGURES / drawn.name
            if not kept.exists() or kept.read_bytes() != drawn.read_bytes():
                shutil.copyfile(drawn, kept)
                print(f"{page}: drew {FIGURES / drawn.name}")


def main() -> int:
    """Run the pages that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: the README and docs/*.md")
    parser.add_argument("--check", action="store_true", help="quick blocks alone; write nothing")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play is not None:
        play_here(asked.play, asked.check, asked.answers)
        return 0
    faults: list[str] = []
    for page in asked.pages or pages():
        print(page, flush=True)
        if asked.check:
            faults += stale(page)
        else:
            refresh(page)
    print("\n".join(faults), end="")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
