"""Every picture is drawn with Matplotlib's defaults, whatever the user's settings are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from fwt import backends, tasks
from fwt.bench import plots
from fwt.bench.suite import OK
from fwt.fwcore.analysis.associator import Point
from fwt.fwcore.spec import ModelSpec
from fwt.plots import attention, canvas, curves, flow, recall
from fwt.report import confusion, inline
from fwt.report.pictures import Album
from fwt.reproduce import drawing
from fwt.reproduce.curves import Figure, Line
from tests import cases
from tests.cli_tools import good, python

STRANGE = {
    "text.usetex": True,  # needs LaTeX
    "font.family": ["no-such-font", "monospace"],
    "font.size": 25,
    "lines.linewidth": 7,
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=["red"]),
    "axes.formatter.use_mathtext": True,
    "figure.facecolor": "yellow",
    "figure.dpi": 31,
    "image.cmap": "jet",
    "legend.fontsize": 30,
    "mathtext.fontset": "cm",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "savefig.format": "pdf",
    "svg.fonttype": "path",
    "xtick.direction": "in",
    "ytick.labelsize": 30,
    "path.sketch": (9, 9, 9),
}


def _traced():
    encoder = {"kind": "embedding", "symbols": 37, "size": 4}
    core = {"kind": "fast-weights", "size": 5, "inner_steps": 2}
    spec = ModelSpec.parse({"encoder": encoder, "core": core, "head": {"classes": 10}}, "test")
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    inputs = reader.parse("a1b2??a")
    model = backends.load("numpy").compile(spec, cases.params_of(spec))
    return model.trace(inputs[None]), reader.labels(inputs)


TRACE, LABELS = _traced()
NUMBERS = (3.0, 20.0, 1000.0)
CURVES = [
    curves.Curve(name, (0, 1), NUMBERS, NUMBERS, NUMBERS, (2.0, 9.0, 10.0), NUMBERS, (2, 2, 1),
                 ((3.0, 20.0), (1000.0, 1000.0)))
    for name in ("lr=0.1", "lr=$1")
]  # fmt: skip
LINE = Line("a line", "lstm", "a panel", NUMBERS, NUMBERS, (1.0, 2.0, 3.0), NUMBERS)
PAPER = Figure("name.png", "title", "about", "x", "y", "harder", (LINE,), ())
ROWS = [
    {"measure": "train", "status": OK, "subject": subject, "batch": 2, "steps": steps, "size": 3,
     "inner": 1, "median_ms": 2.0, "q25_ms": 1.0, "q75_ms": 3.0}
    for subject in ("auto", "lstm") for steps in (11, 24)
]  # fmt: skip
NETWORKS = [
    {"label": "one", "weights": weights, **dict.fromkeys(flow.PANELS, NUMBERS)}
    for weights in ("trained", "first")
]
VIEWS = np.linspace(0, 1, 7 * 9).reshape(7, 3, 3)


def saved(draw: Callable[[], object]) -> Callable[[Path], bytes]:
    def write(folder: Path) -> bytes:
        canvas.save(draw(), folder / "name.png")
        return (folder / "name.png").read_bytes()

    return write


def of_paper(folder: Path) -> bytes:
    (path,) = drawing.draw([PAPER], folder)
    return path.read_bytes()


def of_benchmark(folder: Path) -> bytes:
    assert plots.draw(ROWS, "steps", "title", folder / "name.png")
    return (folder / "name.png").read_bytes()


def of_page(folder: Path) -> bytes:
    curves = Album()._curves(list(CURVES), "error", "val")
    counts = confusion.confusion(np.array([[3, 1], [0, 12]]), "ab")
    return (curves.svg + inline.inline(counts, "p1", "words")[0]).encode()


PICTURES = {
    "heat map": saved(lambda: attention.heat_map(TRACE, LABELS, "title")),
    "glimpses": saved(lambda: attention.glimpses(TRACE, VIEWS[0], VIEWS, LABELS, "title")),
    "spectra": saved(lambda: attention.spectra(TRACE, [None, np.ones(5), np.arange(5.0)])),
    "curves": saved(lambda: curves.draw(CURVES, "updates", "error", "val", True)),
    "confusion": saved(lambda: confusion.confusion(np.array([[3, 1], [0, 12]]), "ab")),
    "gradients": saved(lambda: flow.gradients(NETWORKS)),
    "recall": saved(lambda: recall.recall_error([Point(2, 0.1, 0.2, 0.1)], "title", "error")),
    "paper": of_paper,
    "benchmark": of_benchmark,
    "page": of_page,
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_does_not_know_of_the_users_settings_and_leaves_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # nor of a LaTeX that is there
    with mpl.rc_context():
        mpl.rcdefaults()
        want = PICTURES[name](tmp_path)
        mpl.rcParams.update(STRANGE)
        before = dict(mpl.rcParams.copy())
        assert PICTURES[name](tmp_path) == want
        assert dict(mpl.rcParams.copy()) == before


DRAWN = """
import os, sys
os.chdir(sys.argv.pop())
from fwt.cli.main import run
code = run(sys.argv[1:])
import matplotlib.colors
assert matplotlib.colors.mpl is matplotlib and "matplotlib.pyplot" not in sys.modules
print(os.environ["MPLBACKEND"], os.getcwd())
sys.exit(code)
"""
BROKEN = {
    "a backend that is not installed": ("module://no_such_package.backend", b"font.size: 30"),
    "a file that is no text": ("agg", b"font.size: \xff"),
}


@pytest.mark.parametrize(("backend", "file"), BROKEN.values(), ids=BROKEN)
def test_settings_by_which_matplotlib_cannot_be_imported(backend, file, tmp_path):
    asked = ("associator", "--size", 4, "--pairs", "1,2", "--trials", 2, "--json", "--figure")
    good(*asked, tmp_path / "want.png")
    (tmp_path / "matplotlibrc").write_bytes(file)
    done = python(DRAWN, *asked, tmp_path / "new.png", tmp_path, MPLBACKEND=backend)
    assert done.code == 0, done
    assert done.out.splitlines()[-1] == f"{backend} {tmp_path}"
    assert (tmp_path / "new.png").read_bytes() == (tmp_path / "want.png").read_bytes()
